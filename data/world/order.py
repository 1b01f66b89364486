"""`order`: the largest and the smallest of a few numbers, combined with one more number."""

from __future__ import annotations

from random import Random
from typing import Literal, NamedTuple

from data.records import Language
from data.world.family import Pen, near
from data.world.sums import Sum, signed, steps

Rank = Literal["largest", "smallest"]
RANKS: dict[Rank, dict[Language, str]] = {
    "largest": {"en": " largest", "zh": "最大"},
    "smallest": {"en": " smallest", "zh": "最小"},
}


class Pick(NamedTuple):
    """The largest or the smallest of `numbers`."""

    rank: Rank
    numbers: tuple[int, ...]

    @property
    def truth(self) -> int:
        return max(self.numbers) if self.rank == "largest" else min(self.numbers)

    def slip(self, rng: Random) -> int:
        truth = self.truth
        return rng.choice([number for number in self.numbers if number != truth])

    def line(self, value: int, language: Language) -> str:
        return f"{RANKS[self.rank][language]} {value}"

    def check(self, value: int, language: Language, attentive: bool) -> str:
        return self.line(self.truth if attentive else value, language)


class OrderItem(NamedTuple):
    """4-6 different two-digit numbers; largest plus `sign` times smallest, plus the signed `term`."""

    numbers: tuple[int, ...]
    sign: int
    term: int

    @property
    def key(self) -> str:
        return f"order {' '.join(map(str, self.numbers))} {'+' if self.sign > 0 else '-'} {signed((self.term,))}"

    @property
    def value(self) -> int:
        return max(self.numbers) + self.sign * min(self.numbers) + self.term


class Order:
    """Questions such as "of 33, 14, 94, 52: largest minus smallest plus 70?"."""

    name = "order"
    verifier = "math"

    def draw(self, rng: Random) -> OrderItem:
        while True:
            numbers = tuple(rng.sample(range(10, 100), 4 + int(3 * rng.random())))
            sign = 1 if rng.random() < 0.5 else -1
            term = (10 + int(90 * rng.random())) * (1 if rng.random() < 0.5 else -1)
            item = OrderItem(numbers, sign, term)
            if item.value >= 0:
                return item

    def question(self, item: OrderItem, language: Language, rng: Random) -> str:
        """The list and what is asked of it, in one of the language's wordings."""
        numbers = ", ".join(map(str, item.numbers))
        short = rng.random() < 0.5
        if language == "en":
            combine = " plus smallest" if item.sign > 0 else " minus smallest"
            term = steps((item.term,), " plus", " minus")
            if short:
                return f"of {numbers}: largest{combine}{term}?"
            return f"numbers {numbers}. what is largest{combine}{term}?"
        combine = "最大加上最小" if item.sign > 0 else "最大减去最小"
        term = steps((item.term,), ", 加上", ", 减去")
        if short:
            return f"在 {numbers} 之中, {combine}{term}, 得几?"
        return f"求 {numbers} 之中{combine}{term}."

    def solution(self, item: OrderItem, language: Language) -> str:
        return self.answer(item)

    def answer(self, item: OrderItem) -> str:
        return str(item.value)

    def miss(self, item: OrderItem, rng: Random) -> str:
        return str(near(item.value, rng))

    def solve(self, item: OrderItem, pen: Pen) -> str:
        largest = pen.write(Pick("largest", item.numbers))
        smallest = pen.write(Pick("smallest", item.numbers))
        combined = pen.write(Sum(largest, (item.sign * smallest,)))
        return str(pen.write(Sum(combined, (item.term,))))
