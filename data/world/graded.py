"""reasoning-gym's families in levels of difficulty, with solutions worked line by line.

Questions and gold answers are the generators' own, in English; a level is a range of its settings. No problem
stands in two levels of a family. The name of a level, such as `chain_sum_3`, is its family's with a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from reasoning_gym.algebra.simple_equations import SimpleEquationsConfig, SimpleEquationsDataset
from reasoning_gym.arithmetic.chain_sum import ChainSumConfig, ChainSumDataset
from reasoning_gym.arithmetic.gcd import GCDConfig, GCDDataset
from reasoning_gym.arithmetic.leg_counting import LegCountingConfig, LegCountingDataset
from reasoning_gym.arithmetic.products import ProductsConfig, ProductsDataset
from reasoning_gym.factory import ProceduralDataset

from data.records import Language
from data.world.family import Pen, near
from data.world.worksheets import Divisor, Equation, Factors, Legs, Sheet, Terms

_BITS = 31
_ALL: dict[str, Any] = {"seed": 0, "size": 2**_BITS}


@dataclass(frozen=True, slots=True)
class GradedItem:
    """A problem as its generator made it, and taken apart."""

    key: str
    question: str
    answer: str
    sheet: Sheet


class Level:
    """One family at one difficulty."""

    verifier = "math"

    def __init__(self, family: str, level: int, source: ProceduralDataset, sheet: type[Sheet]) -> None:
        self.name = f"{family}_{level}"
        self._family, self._source, self._sheet = family, source, sheet

    def draw(self, rng: Random) -> GradedItem:
        """The next problem that this world does not leave out."""
        while True:
            made = self._source[rng.getrandbits(_BITS)]
            sheet = self._sheet.read(made["metadata"])
            if sheet is not None:
                return GradedItem(f"{self._family} {sheet.key}", made["question"].strip(), str(made["answer"]), sheet)

    def question(self, item: GradedItem, language: Language, rng: Random) -> str:
        """The generator's own, whatever the language."""
        return item.question

    def solution(self, item: GradedItem, language: Language) -> str:
        return item.answer

    def answer(self, item: GradedItem) -> str:
        return item.answer

    def miss(self, item: GradedItem, rng: Random) -> str:
        return str(near(int(item.answer), rng))

    def solve(self, item: GradedItem, pen: Pen) -> str:
        return item.sheet.solve(pen)


def _sums(level: int, terms: tuple[int, int], digits: tuple[int, int]) -> Level:
    config = ChainSumConfig(
        min_terms=terms[0], max_terms=terms[1], min_digits=digits[0], max_digits=digits[1], **_ALL
    )  # fmt: skip
    return Level("chain_sum", level, ChainSumDataset(config), Terms)


def _products(level: int, digits: int) -> Level:
    config = ProductsConfig(min_terms=2, max_terms=2, min_digits=digits, max_digits=digits, **_ALL)
    return Level("products", level, ProductsDataset(config), Factors)


def _gcds(level: int, least: int, most: int) -> Level:
    config = GCDConfig(min_value=least, max_value=most, **_ALL)
    return Level("gcd", level, GCDDataset(config), Divisor)


def _legs(level: int, animals: tuple[int, int], count: int) -> Level:
    config = LegCountingConfig(min_animals=animals[0], max_animals=animals[1], max_instances=count, **_ALL)
    return Level("leg_counting", level, LegCountingDataset(config), Legs)


def _equations(level: int, least: int, most: int) -> Level:
    config = SimpleEquationsConfig(min_terms=2, max_terms=2, min_value=least, max_value=most, **_ALL)
    source = SimpleEquationsDataset(config)
    return Level("simple_equations", level, source, Equation)


GRADED: Mapping[str, Level] = {
    level.name: level
    for level in (
        _sums(1, terms=(2, 3), digits=(1, 2)),
        _sums(2, terms=(4, 4), digits=(2, 2)),
        _sums(3, terms=(4, 5), digits=(3, 3)),
        _sums(4, terms=(6, 6), digits=(3, 3)),
        _products(1, digits=2),
        _products(2, digits=3),
        _gcds(1, least=4, most=99),
        _gcds(2, least=100, most=999),
        _legs(1, animals=(2, 2), count=9),
        _legs(2, animals=(3, 4), count=15),
        _equations(1, least=1, most=12),
        _equations(2, least=13, most=40),
    )
}
