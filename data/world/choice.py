"""`choice`: work an expression out, then hold its value against one option after the other."""

from __future__ import annotations

from itertools import accumulate
from random import Random
from typing import NamedTuple

from data.records import Language
from data.world.facts import NO, YES
from data.world.family import Pen
from data.world.sums import Sum, expression, signed

LETTERS = ("A", "B", "C", "D")
_NEAR = (1, -1, 2, -2, 8, -8, 9, -9, 11, -11, 12, -12)
_LARGEST_PARTIAL = 199


class Comparison(NamedTuple):
    """Whether an option states the value.

    Value and option stand side by side: a model of three layers sees that they are equal, but does not find
    a value among four options that lie further back.
    """

    value: int
    letter: str
    option: int

    @property
    def truth(self) -> bool:
        return self.value == self.option

    def slip(self, rng: Random) -> bool:
        return not self.truth

    def line(self, value: bool, language: Language) -> str:
        return f" {self.value}, {self.letter} {self.option}: {(YES if value else NO).name(language)}"

    def check(self, value: bool, language: Language, attentive: bool) -> str:
        return self.line(self.truth if attentive else value, language)


class ChoiceItem(NamedTuple):
    """An expression of 2-3 operations with a two-digit value, and four options, one of them right."""

    start: int
    terms: tuple[int, ...]
    options: tuple[int, ...]

    @property
    def key(self) -> str:
        return f"choice {self.start} {signed(self.terms)} of {' '.join(map(str, self.options))}"

    @property
    def place(self) -> int:
        return self.options.index(self.start + sum(self.terms))


class Choice:
    """Questions such as "what is 63 - 15 + 32? options: A 80, B 81, C 92, D 71."."""

    name = "choice"
    verifier = "choice"

    def draw(self, rng: Random) -> ChoiceItem:
        while True:
            start = 10 + int(90 * rng.random())
            terms = [_term(rng) for _ in range(2 + int(2 * rng.random()))]
            partial = list(accumulate(terms, initial=start))
            if min(partial) >= 0 and max(partial) <= _LARGEST_PARTIAL and 10 <= partial[-1] <= 99:
                return ChoiceItem(start, tuple(terms), _options(partial[-1], rng))

    def question(self, item: ChoiceItem, language: Language, rng: Random) -> str:
        text = expression(item.start, item.terms)
        options = ", ".join(f"{letter} {value}" for value, letter in zip(item.options, LETTERS, strict=True))
        short = rng.random() < 0.5
        if language == "en":
            return f"which is {text}: {options}?" if short else f"what is {text}? options: {options}."
        return f"哪个是 {text}: {options}?" if short else f"计算 {text}. 选项: {options}."

    def solution(self, item: ChoiceItem, language: Language) -> str:
        return self.answer(item)

    def answer(self, item: ChoiceItem) -> str:
        return LETTERS[item.place]

    def miss(self, item: ChoiceItem, rng: Random) -> str:
        return rng.choice([letter for letter in LETTERS if letter != self.answer(item)])

    def solve(self, item: ChoiceItem, pen: Pen) -> str:
        """Stops at the first option that is found equal; the last one where none is."""
        value = item.start
        for terms in pen.groups(item.terms):
            value = pen.write(Sum(value, terms))
        for letter, option in zip(LETTERS, item.options, strict=True):
            if pen.write(Comparison(value, letter, option)):
                return letter
        return LETTERS[-1]


def _term(rng: Random) -> int:
    size = 1 + int(99 * rng.random())
    return size if rng.random() < 0.5 else -size


def _options(value: int, rng: Random) -> tuple[int, ...]:
    """The value among near misses, no two with the same last digit."""
    options = [value]
    while len(options) < len(LETTERS):
        option = value + rng.choice(_NEAR)
        if 10 <= option <= 99 and all(option % 10 != other % 10 for other in options):
            options.append(option)
    rng.shuffle(options)
    return tuple(options)
