"""reasoning-gym's families as sources of problems, each under its name and judged by its own scorer.

Some of these scorers take what is no answer: a first digit, "nan", a number without its sign, or the right one among
others. So an answer that a scorer likes must also pass `check`, which knows the gold answer's form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from random import Random
from typing import Any, Final

from data.answers import Unparseable, normal, number, without_lead_in
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


_NOT_FINITE = re.compile(r"nan|inf", re.IGNORECASE)
_TOLERANCE: Final = Fraction(1, 100)  # of a number, and wider than any scorer's that tells numbers apart
_READ_OVER: Final = frozenset(("kakurasu", "knights_knaves", "letter_jumble", "survo"))
"""Families whose scorers find an answer among other words, and whose answers are all equally long."""


def check(family: str, answer: str, item: Mapping[str, Any]) -> str:
    """Why an answer is wrong that the scorer of a family may take for the gold one; empty where it may be right.

    `item` has `answer` and `metadata`. A number is asked for where the gold answer is one, and must be near to it.
    Raises Unparseable for what is no answer at all.
    """
    gold = item["answer"]
    if family == "propositional_logic" and _bare(answer) in map(_bare, map(str, item["metadata"].get("premises", ()))):
        raise Unparseable("stands in the question")
    if gold is None:
        return ""
    if _NOT_FINITE.search(answer) and not _NOT_FINITE.search(gold):
        raise Unparseable("not finite")
    if family in _READ_OVER and len(answer.split()) > len(gold.split()):
        raise Unparseable("more words than an answer has")
    wanted = _number_in(gold)
    if wanted is None:
        return ""
    found = number(without_lead_in(normal(answer)))
    if found is None:
        raise Unparseable("not a number")
    return "another number" if abs(found - wanted) > _TOLERANCE * abs(wanted) else ""


def _number_in(gold: str) -> Fraction | None:
    try:
        return number(normal(gold))
    except Unparseable:
        return None


def _bare(formula: str) -> str:
    return re.sub(r"[\s()]", "", formula)
