"""Trajectories -> kept rows and dropped rows with reasons.

Cold start (DeepSeek-R1 section 2.3.1 of v1, supplement of v2): right and readable trajectories of R1-Zero,
brought into one pattern: thinking in the question's language, then a summary. Rejection sampling (section
2.3.3 of v1, Table 5 of v2): right trajectories of the reasoning checkpoint, without mixed language, long
paragraphs, code blocks or repetition, joined with non-reasoning rows, 600 to 200.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import polars as pl
from pydantic import Field

from data import filters
from data.filters import FilterConfig
from data.language import consistency
from data.lineage import Settings, Table, seed_of
from data.prompts import render, written
from data.records import Language, Row
from data.store import write_table
from data.world.graded import GRADED
from data.world.rewrite import summary, translate
from tasks.collect import problems_of, rows_frame, rows_of
from tasks.rollout import trajectories_of
from tasks.stage import Run, Summary, stage


def readable_filters() -> list[FilterConfig]:
    """The filters that the paper names, with what it implies: right, readable, in one language, new."""
    return [
        filters.NotCorrect(),
        filters.Malformed(),
        filters.Truncated(),
        filters.MixedLanguage(),
        filters.LongParagraph(),
        filters.CodeBlock(),
        filters.Repetition(),
        filters.Contaminated(),
        filters.Duplicate(),
        filters.NearDuplicate(),
        filters.Surplus(max_per_problem=2),
    ]


class CurateConfig(Settings):
    """One build of a fine-tuning set."""

    filters: list[FilterConfig] = Field(
        default_factory=readable_filters, description="in order; the first that fires is a row's reason"
    )
    rewrite: bool = Field(False, description="bring the thinking into the question's language and add a summary")
    general_share: float = Field(
        0.25, ge=0, lt=1, description="share of non-reasoning rows in the set; paper: 200 of 800"
    )
    max_rows: int = Field(0, ge=0, description="reasoning rows at most; 0 keeps all")
    seed: int = 0


@stage(version=2, makes=Table)
def curate(run: Run, trajectories: Table, general: Table, heldout: Table, config: CurateConfig) -> Summary:
    """Build a fine-tuning set: `rows`, `kept`, `dropped` and `waterfall` as Parquet.

    `heldout` is the set of evaluation problems; rows that overlap with it are removed.
    """
    frame = trajectories_of(trajectories)
    if config.rewrite:
        frame = _rewritten(frame)
    context = filters.Context([text for p in problems_of(heldout) for text in (p.prompt, p.solution)])
    kept, dropped = filters.apply(frame, config.filters, context)
    kept, surplus = _capped(kept, config)
    dropped = pl.concat([dropped, surplus], how="diagonal_relaxed")
    if kept.is_empty():
        last = dropped["reason"].value_counts(sort=True).row(0)
        raise ValueError(f"the filters leave no row of {len(frame)}; most were dropped as {last[0]!r} ({last[1]})")
    reasoning = [_row(row) for row in kept.iter_rows(named=True)]
    rows = _mixed(reasoning, rows_of(general), config)
    write_table(run.folder / "rows.parquet", rows_frame(rows))
    write_table(run.folder / "kept.parquet", kept)
    write_table(run.folder / "dropped.parquet", dropped)
    waterfall = filters.waterfall(frame, dropped, kept, config.filters)
    write_table(run.folder / "waterfall.parquet", waterfall)
    return {"trajectories": len(frame), "kept": len(kept), "dropped": len(dropped), "rows": len(rows),
            "general": len(rows) - len(reasoning)}  # fmt: skip


def _rewritten(frame: pl.DataFrame) -> pl.DataFrame:
    """Replace thinking and answer by their readable form; what cannot be rewritten stays, for the filters."""
    columns = ("family", "verifier", "language", "thinking", "answer")
    pairs = [_readable(*row) for row in frame.select(columns).iter_rows()]
    thinking = [pair[0] if pair else old for pair, old in zip(pairs, frame["thinking"], strict=True)]
    answer = [pair[1] if pair else old for pair, old in zip(pairs, frame["answer"], strict=True)]
    return filters.with_language(
        frame.with_columns(pl.Series("thinking", thinking, pl.String), pl.Series("answer", answer, pl.String))
    )


def _readable(
    family: str, verifier: str, language: Language, thinking: str | None, answer: str | None
) -> tuple[str, str] | None:
    """Thinking in one language and a summary; graded families have words that no table translates."""
    if not thinking or not answer:
        return None
    if family in GRADED:
        readable = None if consistency(thinking, language).mixed() else thinking
    else:
        readable = translate(thinking, language)
    return (readable, summary(verifier, language, answer)) if readable else None


def _capped(kept: pl.DataFrame, config: CurateConfig) -> tuple[pl.DataFrame, pl.DataFrame]:
    if not config.max_rows or len(kept) <= config.max_rows:
        return kept, kept.clear().with_columns(pl.lit("over_quota").alias("reason"), pl.lit("").alias("detail"))
    order = sorted(range(len(kept)), key=lambda i: seed_of(config.seed, "quota", kept["id"][i]))
    chosen = kept[sorted(order[: config.max_rows])]
    rest = kept[sorted(order[config.max_rows :])]
    return chosen, rest.with_columns(pl.lit("over_quota").alias("reason"), pl.lit(str(config.max_rows)).alias("detail"))


def _row(row: dict[str, str]) -> Row:
    return Row(
        id=row["id"],
        family=row["family"],
        language=row["language"],
        prompt=render(row["prompt"], "chat"),
        completion=written(row["thinking"], row["answer"]),
        source="trajectory",
    )


def _mixed(reasoning: Sequence[Row], general: Sequence[Row], config: CurateConfig) -> list[Row]:
    """Join with general rows in the declared proportion and shuffle."""
    wanted = round(len(reasoning) * config.general_share / (1 - config.general_share))
    if wanted > len(general):
        raise ValueError(
            f"general_share = {config.general_share} of {len(reasoning)} reasoning rows asks for {wanted} general "
            f"rows, and there are {len(general)}: raise general.rows or lower general_share"
        )
    rows = [*reasoning, *general[:wanted]]
    random.Random(seed_of(config.seed, "shuffle")).shuffle(rows)
    return rows
