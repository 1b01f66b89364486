"""`chain`: additions and subtractions in a row. Expressions come from reasoning_gym's chain_sum."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from reasoning_gym.arithmetic.chain_sum import ChainSumConfig, ChainSumDataset

from data.records import Language
from data.world.family import Pen, near
from data.world.sums import Sum, expression, signed, steps, worded

_LARGEST_SUM = 999
_SOURCE_SIZE_BITS = 31
_SOURCE = ChainSumDataset(
    ChainSumConfig(min_terms=3, max_terms=6, min_digits=3, max_digits=3, seed=0, size=2**_SOURCE_SIZE_BITS)
)


class ChainItem(NamedTuple):
    """A start and 2-5 signed terms; every partial sum is within 0..999, every operand within 1..499."""

    start: int
    terms: tuple[int, ...]

    @property
    def key(self) -> str:
        return f"chain {self.start} {signed(self.terms)}"


class Chain:
    """Questions such as "start with 398, take 7, add 458. result?"."""

    name = "chain"
    verifier = "math"

    def draw(self, rng: Random) -> ChainItem:
        while True:
            item = fold(_SOURCE[rng.getrandbits(_SOURCE_SIZE_BITS)]["metadata"]["expression"])
            if item is not None:
                return item

    def question(self, item: ChainItem, language: Language, rng: Random) -> str:
        """The sum in words, or as a formula, in one of the language's wordings."""
        start, terms = item
        form = rng.random()
        if language == "en":
            if form < 0.5:
                return f"start with {worded(start, terms, ', add', ', take')}. result?"
            if form < 0.8:
                return f"what is {worded(start, terms, ' plus', ' minus')}?"
            return f"compute {expression(start, terms)}."
        if form < 0.5:
            return f"从 {start} 开始{steps(terms, ', 加上', ', 减去')}, 得几?"
        if form < 0.8:
            return f"求 {worded(start, terms, ' 加上', ' 减去')}."
        return f"计算 {expression(start, terms)}."

    def solution(self, item: ChainItem, language: Language) -> str:
        return self.answer(item)

    def answer(self, item: ChainItem) -> str:
        return str(item.start + sum(item.terms))

    def miss(self, item: ChainItem, rng: Random) -> str:
        return str(near(item.start + sum(item.terms), rng))

    def solve(self, item: ChainItem, pen: Pen) -> str:
        value = item.start
        for terms in pen.groups(item.terms):
            value = pen.write(Sum(value, terms))
        return str(value)


def fold(source: str) -> ChainItem | None:
    """An expression with three-digit operands as an item, or None where it does not fit this world.

    Operands from 500 on keep their last two digits, so that a bit more than half of them are below 100.
    """
    words = source.split()
    start = total = _fold(words[0])
    terms = []
    for sign, operand in zip(words[1::2], words[2::2], strict=True):
        term = _fold(operand) if sign == "+" else -_fold(operand)
        total += term
        if term == 0 or not 0 <= total <= _LARGEST_SUM:
            return None
        terms.append(term)
    return ChainItem(start, tuple(terms)) if start else None


def _fold(operand: str) -> int:
    return int(operand) if operand < "5" else int(operand[1:])
