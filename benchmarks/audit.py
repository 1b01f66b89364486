"""What a build made of trajectories, held against the truth about them: precision and recall of every defect.

A defect is found where its row is dropped for a reason that says so. Of rows that are alike, the first by id stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import polars as pl

REASONS: Final[Mapping[str, tuple[str, ...]]] = {
    "verdict": ("verdict",),
    "no_thinking": ("no_thinking", "malformed"),
    "no_summary": ("no_summary", "malformed"),
    "truncated": ("truncated", "malformed", "no_summary"),
    "over_long": ("over_long",),
    "mixed_language": ("mixed_language",),
    "summary_language": ("summary_language",),
    "long_paragraph": ("long_paragraph",),
    "code_block": ("code_block",),
    "repetition": ("repetition",),
    "contaminated": ("contaminated",),
    "duplicate": ("duplicate",),
    "near_duplicate": ("near_duplicate",),
    "near_prompt": ("near_duplicate_prompt",),
}
"""Reasons that name a defect. What was cut within its thinking has no summary either."""

COPIES: Final = ("duplicate", "near_duplicate", "near_prompt")
DROPPED: Final = {"id": pl.String, "reason": pl.String, "detail": pl.String}


@dataclass(frozen=True, slots=True)
class Score:
    """How well a defect is found: rows that have it, rows dropped for it, and those of both."""

    planted: int
    dropped: int
    right: int

    @property
    def precision(self) -> float:
        return self.right / self.dropped if self.dropped else 1.0

    @property
    def recall(self) -> float:
        return self.right / self.planted if self.planted else 1.0


def scores(truth: pl.DataFrame, dropped: pl.DataFrame) -> dict[str, Score]:
    """The score of each defect. `truth` is the generator's, `dropped` has `id`, `reason` and `detail`."""
    rows = judged(truth, dropped)
    found = {}
    for defect, reasons in REASONS.items():
        right = rows.filter((pl.col("defect") == defect) & pl.col("reason").is_in(reasons))
        others = [name for name, theirs in REASONS.items() if set(theirs) & set(reasons)]
        fires = rows.filter(pl.col("reason").is_in(reasons))
        foreign = fires.filter(~pl.col("defect").is_in(others).fill_null(False))
        planted = rows.filter(pl.col("defect") == defect)
        found[defect] = Score(len(planted), len(right) + len(foreign), len(right))
    return found


def judged(truth: pl.DataFrame, dropped: pl.DataFrame) -> pl.DataFrame:
    """The truth with the reason and detail of each row, null for those that stay.

    `kind` is what was planted in full, `defect` its first part.
    """
    rows = truth.join(dropped.select(*DROPPED), on="id", how="left", maintain_order="left")
    return rows.with_columns(pl.col("defect").alias("kind"), pl.col("defect").str.split("/").list.first())


def partners_named(truth: pl.DataFrame, dropped: pl.DataFrame) -> Score:
    """Of the copies that were found: those whose detail names what they copy, a row of it where that is a problem."""
    rows = judged(truth, dropped)
    says_so = [(pl.col("defect") == defect) & pl.col("reason").is_in(REASONS[defect]) for defect in COPIES]
    found = rows.filter(pl.any_horizontal(says_so))
    prompt = pl.col("defect") == "near_prompt"
    named = pl.col("detail").str.starts_with(pl.col("partner")) & (prompt | (pl.col("detail") == pl.col("partner")))
    return Score(len(found), len(found), len(found.filter(named)))


def wrong(truth: pl.DataFrame, dropped: pl.DataFrame) -> pl.DataFrame:
    """(kind or near miss, reason, rows, an id, its detail) of everything that was judged wrongly."""
    rows = judged(truth, dropped).filter(~pl.col("reason").is_in(NOT_JUDGED).fill_null(False))
    right = pl.any_horizontal(
        *[(pl.col("defect") == defect) & pl.col("reason").is_in(reasons) for defect, reasons in REASONS.items()]
    ).fill_null(False) | (pl.col("defect").is_null() & pl.col("reason").is_null())
    what = pl.coalesce("kind", pl.concat_str(pl.lit("near miss "), "near_miss"), pl.lit("good"))
    grouped = rows.filter(~right).group_by(what.alias("what"), "reason")
    return grouped.agg(
        pl.len().alias("rows"), pl.col("id").sort().first(), pl.col("detail").sort_by("id").first()
    ).sort("rows", "what", "reason", descending=[True, False, False])


NOT_JUDGED: Final = ("surplus", "over_quota")
"""Reasons for good rows of which there are enough."""
