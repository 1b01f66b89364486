"""reasoning-gym's families as sources of problems, each under its name and judged by its own scorer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from data.records import Language

PREFIX = "reasoning_gym:"
_NEEDS_FAMILIES = "composite"  # a mixture of others, made from a list of them


def is_gym(name: str) -> bool:
    """Whether a name is `reasoning_gym:<family>` of a family that makes problems."""
    return name.startswith(PREFIX) and name.removeprefix(PREFIX) in families() - {_NEEDS_FAMILIES}


@cache
def families() -> frozenset[str]:
    """Every family that the installed reasoning-gym has a scorer for."""
    from reasoning_gym.factory import DATASETS

    return frozenset(DATASETS)


@dataclass(frozen=True, slots=True)
class GymItem:
    """One item: its question is its key. `answer` is None where the family gives no answer, only a scorer."""

    key: str
    answer: str | None
    metadata: str


class GymSource:
    """Problems of one family, in English and as hard as the family's defaults make them."""

    def __init__(self, name: str) -> None:
        self.name = self.verifier = name

    def draw(self, rng: Random) -> GymItem:
        from reasoning_gym.factory import create_dataset

        [item] = create_dataset(self.name.removeprefix(PREFIX), seed=rng.getrandbits(31), size=1)
        return GymItem(item["question"], item["answer"], json.dumps(item["metadata"], ensure_ascii=False, default=str))

    def question(self, item: GymItem, language: Language, rng: Random) -> str:
        return item.key

    def solution(self, item: GymItem, language: Language) -> str:
        return gym_solution(item.answer, json.loads(item.metadata))


def gym_solution(answer: str | None, metadata: Any) -> str:
    """`Problem.solution` of a reasoning-gym problem: its answer and its metadata, as JSON."""
    return json.dumps({"answer": answer, "metadata": metadata}, ensure_ascii=False)
