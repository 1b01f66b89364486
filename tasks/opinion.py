"""Preference pairs by a language model's opinion (DeepSeek-R1, 3.1): the better of two answers, where it is sure.

Each pair is asked about several times, the two answers in random order, and kept where the mean difference is above
a margin: four times and 1 in the paper. What a verdict counts is in `data.judge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from random import Random
from typing import Any

from pydantic import Field

from data.judge import JudgeError, JudgeModel, ModelJudge, chosen
from data.lineage import Settings, seed_of

Row = dict[str, Any]
BUDGET = 0.01
"""Share of the pairs of which the model may say nothing before the stage stops."""


class OpinionConfig(Settings):
    """How pairs are judged."""

    queries: int = Field(4, ge=1, description="about each pair, the two answers in random order")
    margin: float = Field(1.0, ge=0, lt=2, description="a pair is kept where the mean difference is above it")
    judge: JudgeModel | None = Field(None, description="from the recipe's [judge]")


@dataclass(slots=True)
class Opinions:
    """Asks, and counts what it asked and what failed."""

    judge: ModelJudge
    config: OpinionConfig
    seed: int
    asked: int = 0
    failed: list[str] = field(default_factory=list)

    def pairs(self, rows: Sequence[Row], most: int) -> list[tuple[Row, Row]]:
        """(chosen, rejected) out of at most so many pairs of answers to one prompt."""
        both = list(combinations(rows, 2))
        Random(seed_of(self.seed, "opinion", rows[0]["problem_id"])).shuffle(both)
        found = []
        for first, second in both[:most]:
            winner = self._winner(first, second)
            if winner is not None:
                found.append((first, second) if winner == 0 else (second, first))
        return found

    def check(self, where: str) -> None:
        """Raise ValueError, naming a cause, where more pairs failed than may."""
        if len(self.failed) > BUDGET * self.asked:
            raise ValueError(f"{where}: {len(self.failed)} of {self.asked} pairs could not be judged: {self.failed[0]}")

    def _winner(self, first: Row, second: Row) -> int | None:
        self.asked += 1
        own = seed_of(self.seed, first["id"], second["id"])
        answers = (first["answer"] or "", second["answer"] or "")
        try:
            score = self.judge.preference(first["prompt"], *answers, own, self.config.queries)
        except JudgeError as why:
            self.failed.append(str(why))
            return None
        return chosen(score, self.config.margin)
