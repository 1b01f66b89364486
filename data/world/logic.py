"""`logic`: four letters stand in a row and change places; the answer is the final row."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from data.records import Language
from data.world.family import Pen

_LETTERS = "ABCD"
_PAIRS = ("AB", "AC", "AD", "BC", "BD", "CD")
SWAP: dict[Language, str] = {"en": " swap", "zh": "交换"}


class Swaps(NamedTuple):
    """The row after the swaps, each the two letters that change places."""

    row: str
    pairs: tuple[str, ...]

    @property
    def truth(self) -> str:
        return after(self.row, self.pairs)

    def slip(self, rng: Random) -> str:
        return _other(self.truth, rng)

    def line(self, value: str, language: Language) -> str:
        return f"{_named(self.pairs, language)}: {' '.join(value)}"

    def check(self, value: str, language: Language, attentive: bool) -> str:
        """By the inverse: the same swaps, last first, lead back to the row before."""
        back = self.pairs[::-1]
        return f"{_named(back, language)}: {' '.join(after(value, back) if attentive else self.row)}"


class LogicItem(NamedTuple):
    """A row of four letters and 3-5 swaps, no swap twice in succession."""

    row: str
    pairs: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"logic {self.row} {' '.join(self.pairs)}"


class Logic:
    """Questions such as "row D C A B. swap A D, swap B C, swap A C. order?"."""

    name = "logic"
    verifier = "math"

    def draw(self, rng: Random) -> LogicItem:
        row = "".join(rng.sample(_LETTERS, len(_LETTERS)))
        pairs: list[str] = []
        for _ in range(3 + int(3 * rng.random())):
            pairs.append(rng.choice([pair for pair in _PAIRS if not pairs or pair != pairs[-1]]))
        return LogicItem(row, tuple(pairs))

    def question(self, item: LogicItem, language: Language, rng: Random) -> str:
        row, short = " ".join(item.row), rng.random() < 0.5
        if language == "en":
            swaps = _named(item.pairs, language)
            return f"row {row}.{swaps}. order?" if short else f"in the row {row},{swaps}. what is the order?"
        swaps = _named(item.pairs, language)
        return f"一行 {row}. {swaps}. 顺序?" if short else f"在一行 {row} 之中, {swaps}. 顺序是什么?"

    def solution(self, item: LogicItem, language: Language) -> str:
        return self.answer(item)

    def answer(self, item: LogicItem) -> str:
        return " ".join(after(item.row, item.pairs))

    def miss(self, item: LogicItem, rng: Random) -> str:
        return " ".join(_other(after(item.row, item.pairs), rng))

    def solve(self, item: LogicItem, pen: Pen) -> str:
        row = item.row
        for pairs in pen.groups(item.pairs):
            row = pen.write(Swaps(row, pairs))
        return " ".join(row)


def after(row: str, pairs: tuple[str, ...]) -> str:
    """The row after the two letters of each pair have changed places."""
    for pair in pairs:
        row = row.translate({ord(pair[0]): pair[1], ord(pair[1]): pair[0]})
    return row


def _other(row: str, rng: Random) -> str:
    return after(row, (rng.choice(_PAIRS),))


def _named(pairs: tuple[str, ...], language: Language) -> str:
    word = SWAP[language]
    return f"{word} {pairs[0][0]} {pairs[0][1]}" + "".join(
        [f",{' ' if language == 'zh' else ''}{word} {pair[0]} {pair[1]}" for pair in pairs[1:]]
    )
