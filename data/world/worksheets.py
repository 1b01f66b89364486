"""What a reasoning-gym problem asks, and how it is worked line by line: one kind of sheet for each graded family.

`read` takes a generator's metadata, and gives None for a problem that is left out of this world. `key` names
what is asked whatever the order or the letters it is written in, where they do not matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

from reasoning_gym.arithmetic.leg_counting import ANIMALS

from data.world.arithmetic import Product, Quotient, Remainder
from data.world.family import Pen
from data.world.sums import Sum, expression

_EQUATION = re.compile(r"(?:(\d+)\*[a-z] ([+-]) (\d+)|(\d+) - (\d+)\*[a-z]) = (-?\d+)")


class Sheet(Protocol):
    """A problem taken apart."""

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> Self | None:
        """Take a problem apart; None for one that is left out."""

    @property
    def key(self) -> str:
        """Names the problem within its family."""

    def solve(self, pen: Pen) -> str:
        """Write the lines; returns the answer that they lead to."""


class Terms(NamedTuple):
    """`chain_sum`: a start and the signed terms after it, none of them 0; worked from left to right."""

    start: int
    terms: tuple[int, ...]

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> Terms | None:
        words = metadata["expression"].split()
        signs = [1 if sign == "+" else -1 for sign in words[1::2]]
        terms = tuple(sign * int(word) for sign, word in zip(signs, words[2::2], strict=True))
        return cls(int(words[0]), terms) if all(terms) else None

    @property
    def key(self) -> str:
        return expression(self.start, self.terms)

    def solve(self, pen: Pen) -> str:
        value = self.start
        for terms in pen.groups(self.terms):
            value = pen.write(Sum(value, terms))
        return str(value)


class Factors(NamedTuple):
    """`products`: the first factor times each place of the second, which has two or more, then their sum."""

    left: int
    right: int

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> Factors | None:
        left, right = map(int, metadata["expression"].split(" * "))
        return cls(left, right) if len(_places(right)) > 1 else None

    @property
    def key(self) -> str:
        return " * ".join(map(str, sorted(self)))

    def solve(self, pen: Pen) -> str:
        parts = [pen.write(Product(self.left, place)) for place in _places(self.right)]
        return str(_added(parts, pen))


def _places(number: int) -> list[int]:
    """400, 60 and 5 for 465; places with a 0 are left out."""
    digits = str(number)
    return [int(digit) * 10 ** (len(digits) - at) for at, digit in enumerate(digits, 1) if digit != "0"]


def _added(parts: Sequence[int], pen: Pen) -> int:
    total = parts[0]
    for part in parts[1:]:
        total = pen.write(Sum(total, (part,)))
    return total


class Divisor(NamedTuple):
    """`gcd` by Euclid's algorithm; only pairs with a divisor above 1 that is not the smaller number itself."""

    large: int
    small: int

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> Divisor | None:
        small, large = sorted(metadata["numbers"])
        return cls(large, small) if metadata["result"] > 1 and large % small else None

    @property
    def key(self) -> str:
        return f"{self.large} {self.small}"

    def solve(self, pen: Pen) -> str:
        large, small = self
        while small:
            large, small = small, pen.write(Remainder(large, small))
        return str(large)


class Legs(NamedTuple):
    """`leg_counting`: the legs of each kind of animal, and after each but the first the sum so far."""

    animals: tuple[tuple[str, int], ...]

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> Legs:
        return cls(tuple(metadata["animals"].items()))

    @property
    def key(self) -> str:
        return ", ".join(f"{count} {animal}" for animal, count in sorted(self.animals))

    def solve(self, pen: Pen) -> str:
        total = 0
        for number, (animal, count) in enumerate(self.animals):
            legs = pen.write(Product(count, ANIMALS[animal], f"{animal}s"))
            total = pen.write(Sum(total, (legs,))) if number else legs
        return str(total)


class Equation(NamedTuple):
    """`simple_equations`: `factor * x + shift = result`, or `shift - factor * x = result` where it is `turned`.

    First what the factor times the unknown is, then the unknown.
    """

    factor: int
    shift: int
    result: int
    turned: bool

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> Equation | None:
        match = _EQUATION.fullmatch(metadata["equation"])
        if match is None:
            return None
        factor, sign, shift, minuend, subtrahend, result = match.groups()
        if minuend:
            return cls(int(subtrahend), int(minuend), int(result), turned=True)
        return cls(int(factor), int(shift) if sign == "+" else -int(shift), int(result), turned=False)

    @property
    def key(self) -> str:
        if self.turned:
            return f"{self.shift} - {self.factor}x = {self.result}"
        return f"{self.factor}x {self.shift:+d} = {self.result}"

    def solve(self, pen: Pen) -> str:
        line = Sum(self.shift, (-self.result,)) if self.turned else Sum(self.result, (-self.shift,))
        return str(pen.write(Quotient(pen.write(line), self.factor)))
