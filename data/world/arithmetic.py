"""Calculations that the graded families put into lines: products, quotients, remainders."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from data.records import Language
from data.world.family import near


class Product(NamedTuple):
    """`left` times `right`, of what `name` says; checked the other way round."""

    left: int
    right: int
    name: str = ""

    @property
    def truth(self) -> int:
        return self.left * self.right

    def slip(self, rng: Random) -> int:
        return near(self.truth, rng)

    def line(self, value: int, language: Language) -> str:
        return f"{self.name and ' '}{self.name} {self.left} * {self.right} = {value}"

    def check(self, value: int, language: Language, attentive: bool) -> str:
        return f" {self.right} * {self.left} = {self.truth if attentive else value}"


class Quotient(NamedTuple):
    """`dividend` over `divisor`, checked by the product; the whole part where a slip before left no whole number."""

    dividend: int
    divisor: int

    @property
    def truth(self) -> int:
        return self.dividend // self.divisor

    def slip(self, rng: Random) -> int:
        return near(self.truth, rng)

    def line(self, value: int, language: Language) -> str:
        return f" {self.dividend} / {self.divisor} = {value}"

    def check(self, value: int, language: Language, attentive: bool) -> str:
        return f" {value} * {self.divisor} = {value * self.divisor if attentive else self.dividend}"


class Remainder(NamedTuple):
    """What is left of `larger` when `smaller` is taken away as often as it can be; checked by adding it back."""

    larger: int
    smaller: int

    @property
    def truth(self) -> int:
        return self.larger % self.smaller

    @property
    def times(self) -> int:
        return self.larger // self.smaller

    def slip(self, rng: Random) -> int:
        return near(self.truth, rng)

    def line(self, value: int, language: Language) -> str:
        return f" {self.larger} - {self.times} * {self.smaller} = {value}"

    def check(self, value: int, language: Language, attentive: bool) -> str:
        whole = self.times * self.smaller + value
        return f" {value} + {self.times} * {self.smaller} = {whole if attentive else self.larger}"
