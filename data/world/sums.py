"""Sums of integers: the fact that most families lean on, and how its terms are worded."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from data.records import Language
from data.world.family import near


class Sum(NamedTuple):
    """`start` and then `terms` added to it; a negative term is taken away."""

    start: int
    terms: tuple[int, ...]

    @property
    def truth(self) -> int:
        return self.start + sum(self.terms)

    def slip(self, rng: Random) -> int:
        return near(self.truth, rng)

    def line(self, value: int, language: Language) -> str:
        return f" {expression(self.start, self.terms)} = {value}"

    def check(self, value: int, language: Language, attentive: bool) -> str:
        """By the inverse operation: back from `value` to where the line started."""
        back = tuple(-term for term in reversed(self.terms))
        return f" {expression(value, back)} = {value + sum(back) if attentive else self.start}"


def expression(start: int, terms: tuple[int, ...]) -> str:
    """`398 - 7 + 458` for 398 and (-7, 458)."""
    return worded(start, terms, " +", " -")


def worded(start: int, terms: tuple[int, ...], plus: str, minus: str) -> str:
    """Like `expression`, with words for the signs; they bring the space in front of them."""
    return str(start) + steps(terms, plus, minus)


def steps(terms: tuple[int, ...], plus: str, minus: str) -> str:
    """The terms alone, each with the words for its sign."""
    return "".join([f"{minus} {-term}" if term < 0 else f"{plus} {term}" for term in terms])


def signed(terms: tuple[int, ...]) -> str:
    """`-7 +458` for (-7, 458), for keys."""
    return " ".join(f"{term:+d}" for term in terms)
