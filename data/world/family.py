"""What a family of problems is, and the pen that writes worked lines.

A family solves an item by handing facts ("391 + 458 is what?") to a pen. The pen writes the line, right or
with a slip, and returns the value that it wrote; the family goes on with that value, so a slip carries on
into every later line and into the answer. A pen that checks looks at each line once more, notices most
slips and then writes the line again, right.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Literal, Protocol, TypeVar

from data.records import Language

Tongue = Literal["en", "zh", "mixed"]
"""The language that a solution is written in; `mixed` draws one for every sentence."""

T = TypeVar("T")
ItemT = TypeVar("ItemT", bound="Item")

FIRST = {"en": "first", "zh": "先"}
THEN = {"en": "then", "zh": "再"}
LOOK = {"en": "wait, check", "zh": "等等, 检查"}
AGAIN = {"en": "wrong, again", "zh": "错, 重算"}


class Item(Protocol):
    """A problem without its language."""

    @property
    def key(self) -> str:
        """Names the problem; equal keys are equal problems, whatever language they are asked in."""


class Fact(Protocol[T]):
    """One thing to work out. Texts start with a space before a number, a letter or an English word."""

    @property
    def truth(self) -> T:
        """The right value."""

    def slip(self, rng: Random) -> T:
        """A wrong value, of the kind that a hasty writer puts down."""

    def line(self, value: T, language: Language) -> str:
        """The fact with `value` written for it."""

    def check(self, value: T, language: Language, attentive: bool) -> str:
        """A second look at a line with `value`: what is there if attentive, else what the writer expects."""


class Pen:
    """Writes worked lines one after the other.

    `slip` and `overlook` are probabilities: of a wrong line, and of a check that does not see a wrong line.
    """

    def __init__(
        self,
        rng: Random,
        tongue: Tongue,
        *,
        slip: float = 0.0,
        checks: bool = False,
        overlook: float = 0.0,
        coarse: bool = False,
    ) -> None:
        self._rng, self._tongue = rng, tongue
        self._slip, self._checks, self._overlook, self._coarse = slip, checks, overlook, coarse
        self._sentences: list[str] = []

    @property
    def text(self) -> str:
        """All sentences so far, with a space between them."""
        return " ".join(self._sentences)

    def groups(self, operations: tuple[T, ...]) -> Iterator[tuple[T, ...]]:
        """The operations that go into one line each: one, or two where the writer is coarse."""
        size = 2 if self._coarse else 1
        for start in range(0, len(operations), size):
            yield operations[start : start + size]

    def write(self, fact: Fact[T]) -> T:
        """Write the next line, and its check if this writer checks; returns the value that now stands."""
        lead = THEN if self._sentences else FIRST
        truth = fact.truth
        value = fact.slip(self._rng) if self._rng.random() < self._slip else truth
        language = self._language()
        self._sentences.append(f"{lead[language]}{fact.line(value, language)}.")
        return self._check(fact, value, truth) if self._checks else value

    def _check(self, fact: Fact[T], value: T, truth: T) -> T:
        language = self._language()
        if value == truth:
            self._sentences.append(f"{LOOK[language]}{fact.check(value, language, True)}.")
            return value
        if self._rng.random() < self._overlook:
            self._sentences.append(f"{LOOK[language]}{fact.check(value, language, False)}.")
            return value
        seen, right = fact.check(value, language, True), fact.line(truth, language)
        self._sentences.append(f"{LOOK[language]}{seen}, {AGAIN[language]}{right}.")
        return truth

    def _language(self) -> Language:
        if self._tongue == "mixed":
            return "en" if self._rng.random() < 0.5 else "zh"
        return self._tongue


class Source(Protocol[ItemT]):
    """Where prompts of one kind come from."""

    name: str
    verifier: str

    def draw(self, rng: Random) -> ItemT:
        """A random item."""

    def question(self, item: ItemT, language: Language, rng: Random) -> str:
        """The item as a question, in one of a few wordings."""

    def solution(self, item: ItemT, language: Language) -> str:
        """What the verifier judges against (`Problem.solution`)."""


class Family(Source[ItemT], Protocol[ItemT]):
    """A source of reasoning problems."""

    def answer(self, item: ItemT) -> str:
        """The right answer as a reply states it."""

    def miss(self, item: ItemT, rng: Random) -> str:
        """A wrong answer that is close."""

    def solve(self, item: ItemT, pen: Pen) -> str:
        """Work the item out with the pen; returns the answer that the written lines lead to."""


def near(value: int, rng: Random) -> int:
    """A number that differs from `value` in one digit place; not negative if `value` is not."""
    step = rng.choice((1, 1, 2, 10, 10, 100) if value >= 100 else (1, 1, 2, 10, 10))
    return value - step if value >= step and rng.random() < 0.5 else value + step
