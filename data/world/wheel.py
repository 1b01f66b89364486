"""Weighted choice at the price of one random number."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from random import Random
from typing import Generic, TypeVar

T = TypeVar("T")


class Wheel(Generic[T]):
    """Draws from weighted choices with one random number each."""

    def __init__(self, weights: Mapping[T, float]) -> None:
        self._choices = tuple(weights)
        self._ends = tuple(accumulate(weights.values()))

    def draw(self, rng: Random) -> T:
        point = rng.random() * self._ends[-1]
        for choice, end in zip(self._choices, self._ends, strict=True):
            if point < end:
                return choice
        return self._choices[-1]
