"""Problems that a base always or never solves are left out: all answers in such a group earn the same.

Only problems to learn from are asked, and none of those that models are measured by. General prompts, which no
rule judges, stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import polars as pl
from pydantic import Field, model_validator

from data.lineage import Policy, Table
from data.prompts import Template
from data.records import Problem
from data.store import write_table
from tasks.collect import as_frame, by_rule, problems_of
from tasks.rollout import INFRA_ERROR_BUDGET, SHARD, Sampling, in_shards, load
from tasks.stage import Run, Summary, stage

TOO_HARD, TOO_EASY = "too hard", "too easy"


class DifficultyConfig(Sampling):
    """How the base is asked, and between which shares of right answers a problem is kept."""

    template: Template = Field("zero", description="that of the first stage which learns")
    num_generations: int = Field(8, ge=2, description="samples a problem")
    above: float = Field(0.0, ge=0, lt=1, description="a problem is too hard unless more than this share is right")
    below: float = Field(1.0, gt=0, le=1, description="a problem is too easy unless less than this share is right")
    infra_error_budget: float = INFRA_ERROR_BUDGET

    @model_validator(mode="after")
    def _leaves_some(self) -> Self:
        between = [n for n in range(self.num_generations + 1) if self.above < n / self.num_generations < self.below]
        if not between:
            raise ValueError(
                f"above = {self.above} and below = {self.below} leave no share that num_generations = "
                f"{self.num_generations} samples can have"
            )
        return self


def fates(rates: Mapping[str, float], above: float, below: float) -> dict[str, str]:
    """Why each problem is left out, by its id, from its share of right answers; empty where it is kept."""
    return {name: TOO_HARD if rate <= above else TOO_EASY if rate >= below else "" for name, rate in rates.items()}


@stage(version=1, makes=Table, heavy=True)
def sift(run: Run, policy: Policy, problems: Table, config: DifficultyConfig) -> Summary:
    """Keep the problems that a policy solves sometimes: `problems.parquet`, and the counts in `waterfall.parquet`.

    `dropped.parquet` has each problem that is left out with its reason, `rates.parquet` the share of right answers
    of every problem. Raises ValueError where none is left.
    """
    everything = problems_of(problems)
    rates = _rates(run, policy, by_rule(everything)[0], config)
    why = fates(rates, config.above, config.below)
    kept = [each for each in everything if not why.get(each.id)]
    reasoning = len(by_rule(kept)[0])
    if not reasoning:
        raise ValueError(f"{run.name}: {_counted(why)}, and no problem is left to learn from; change above or below")
    dropped = [each for each in everything if why.get(each.id)]
    write_table(run.folder / "problems.parquet", as_frame(kept))
    write_table(run.folder / "dropped.parquet", _dropped(dropped, why, rates))
    write_table(run.folder / "waterfall.parquet", _waterfall(why))
    write_table(run.folder / "rates.parquet", pl.DataFrame({"problem_id": list(rates), "rate": list(rates.values())}))
    return {"rows": len(kept), "asked": len(rates), "kept": reasoning,
            "too_hard": list(why.values()).count(TOO_HARD), "too_easy": list(why.values()).count(TOO_EASY)}  # fmt: skip


def _rates(run: Run, policy: Policy, asked: Sequence[Problem], config: DifficultyConfig) -> dict[str, float]:
    """The share of right answers of each problem, by its id."""
    speaker = load(policy, run.device)
    sampling = Sampling.model_validate({name: getattr(config, name) for name in Sampling.model_fields})
    frames = []
    for done, frame in in_shards(run, "asked", speaker, asked, sampling, "sift", SHARD, config.infra_error_budget):
        run.progress(done, len(asked))
        frames.append(frame)
    right = pl.col("verdict").eq("correct").fill_null(False).mean().alias("rate")
    counted = pl.concat(frames).group_by("problem_id", maintain_order=True).agg(right)
    return dict(counted.iter_rows())


def _dropped(problems: Sequence[Problem], why: Mapping[str, str], rates: Mapping[str, float]) -> pl.DataFrame:
    return as_frame(problems).with_columns(
        pl.col("id").alias("problem_id"),
        pl.Series("reason", [why[each.id] for each in problems], pl.String),
        pl.Series("detail", [f"{rates[each.id]:.0%} right" for each in problems], pl.String),
    )


def _waterfall(why: Mapping[str, str]) -> pl.DataFrame:
    told = list(why.values())
    rows = {"asked": len(told), TOO_HARD: told.count(TOO_HARD), TOO_EASY: told.count(TOO_EASY), "kept": told.count("")}
    return pl.DataFrame({"reason": list(rows), "rows": list(rows.values())})


def _counted(why: Mapping[str, str]) -> str:
    told = list(why.values())
    return f"{told.count(TOO_HARD)} of {len(told)} problems are too hard and {told.count(TOO_EASY)} too easy"
