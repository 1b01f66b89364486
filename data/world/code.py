"""`code`: find the linear rule behind a few examples and write the program."""

from __future__ import annotations

import json
import zlib
from random import Random
from typing import NamedTuple

from data.records import Language
from data.world.arithmetic import Product
from data.world.family import Pen, near
from data.world.sums import Sum

_LARGEST_SHOWN = 12
_HIDDEN = range(_LARGEST_SHOWN + 1, 100)
_HIDDEN_COUNT = 4


class CodeItem(NamedTuple):
    """output = slope * input + intercept, shown for `first`, `first` + 1 and a larger input."""

    slope: int
    intercept: int
    first: int
    third: int

    @property
    def key(self) -> str:
        return f"code {self.slope} {self.intercept} at {self.first} {self.third}"

    def output(self, value: int) -> int:
        return self.slope * value + self.intercept


class Code:
    """Questions such as "in 3 out 11, in 4 out 14, in 7 out 23. program?"."""

    name = "code"
    verifier = "code"

    def draw(self, rng: Random) -> CodeItem:
        first = 1 + int(9 * rng.random())
        third = first + 2 + int((_LARGEST_SHOWN - first - 1) * rng.random())
        return CodeItem(2 + int(8 * rng.random()), int(61 * rng.random()), first, third)

    def question(self, item: CodeItem, language: Language, rng: Random) -> str:
        shown = [(value, item.output(value)) for value in (item.first, item.first + 1, item.third)]
        short = rng.random() < 0.5
        if language == "en":
            examples = ", ".join(f"in {value} out {output}" for value, output in shown)
            return f"{examples}. program?" if short else f"write the program: {examples}."
        examples = ", ".join(f"输入 {value} 输出 {output}" for value, output in shown)
        return f"{examples}. 程序?" if short else f"写程序: {examples}."

    def solution(self, item: CodeItem, language: Language) -> str:
        """Hidden tests: JSON list of `{"input", "output"}` at four inputs that the question does not show."""
        hidden = Random(zlib.crc32(item.key.encode())).sample(_HIDDEN, _HIDDEN_COUNT)
        return json.dumps([{"input": f"{value}\n", "output": f"{item.output(value)}\n"} for value in hidden])

    def answer(self, item: CodeItem) -> str:
        return fenced(program(item.slope, item.intercept))

    def miss(self, item: CodeItem, rng: Random) -> str:
        if rng.random() < 0.5:
            return fenced(program(item.slope, near(item.intercept, rng)))
        return fenced(program(near(item.slope, rng), item.intercept))

    def solve(self, item: CodeItem, pen: Pen) -> str:
        low, high = item.output(item.first), item.output(item.first + 1)
        slope = pen.write(Sum(high, (-low,)))
        product = pen.write(Product(slope, item.first))
        return fenced(program(slope, pen.write(Sum(low, (-product,)))))


def program(slope: int, intercept: int) -> str:
    """The program that reads one integer and prints the rule's output."""
    return f"print(int(input()) * {slope} + {intercept})"


def fenced(source: str) -> str:
    """The program in a fenced block, as an answer states it."""
    return f"```python\n{source}\n```"
