"""`choice`: work an expression out, then name the option that states its value."""

from __future__ import annotations

from itertools import accumulate
from random import Random
from typing import NamedTuple

from data.records import Language
from data.world.family import Pen
from data.world.sums import Sum, expression, signed

LETTERS = ("A", "B", "C", "D")
_DIGITS = range(1, 10)
_LARGEST_PARTIAL = 199


class Match(NamedTuple):
    """The place of the option that is closest to `value`."""

    value: int
    options: tuple[int, ...]

    @property
    def truth(self) -> int:
        return min(range(len(self.options)), key=lambda place: abs(self.options[place] - self.value))

    def slip(self, rng: Random) -> int:
        truth = self.truth
        return rng.choice([place for place in range(len(self.options)) if place != truth])

    def line(self, value: int, language: Language) -> str:
        return f" {self.options[value]} {LETTERS[value]}"

    def check(self, value: int, language: Language, attentive: bool) -> str:
        return self.line(self.truth if attentive else value, language)


class ChoiceItem(NamedTuple):
    """An expression of 2-3 operations whose value is a digit, and four options, one of them right.

    A value of one token is found among the options by one look back; with two digits a model of three
    layers computes the value and then names any option.
    """

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
    """Questions such as "what is 63 - 15 - 41? options: 7 A, 2 B, 9 C, 4 D."."""

    name = "choice"
    verifier = "choice"

    def draw(self, rng: Random) -> ChoiceItem:
        while True:
            start = total = 10 + int(90 * rng.random())
            terms: list[int] = []
            for _ in range(1 + int(2 * rng.random())):
                term = 1 + int(99 * rng.random())
                terms.append(term if rng.random() < 0.5 else -term)
                total += terms[-1]
            value = rng.choice(_DIGITS)
            terms.append(value - total)
            if all(0 <= total <= _LARGEST_PARTIAL for total in accumulate(terms[:-1], initial=start)) and terms[-1]:
                return ChoiceItem(start, tuple(terms), _options(value, rng))

    def question(self, item: ChoiceItem, language: Language, rng: Random) -> str:
        text = expression(item.start, item.terms)
        options = ", ".join(f"{value} {letter}" for value, letter in zip(item.options, LETTERS, strict=True))
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
        value = item.start
        for terms in pen.groups(item.terms):
            value = pen.write(Sum(value, terms))
        return LETTERS[pen.conclude(Match(value, item.options))]


def _options(value: int, rng: Random) -> tuple[int, ...]:
    options = [value, *rng.sample([digit for digit in _DIGITS if digit != value], len(LETTERS) - 1)]
    rng.shuffle(options)
    return tuple(options)
