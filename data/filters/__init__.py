"""Rejection sampling's filters: which trajectories are dropped, and why (DeepSeek-R1, 3.3 to 3.5).

A filter is a class in `rows` or `groups` and a member of `FilterConfig`; `kinds` says what it has to give.
Filters run in the declared order, each on what the earlier ones left: the first that fires is a row's reason.
Rows are taken by id, so their order in the table does not matter.

A text is compared by its units: words and numbers in lower case, and Han characters one by one. The text of
a trajectory is its thinking and answer where it is well formed, so a rewritten trajectory is judged as it
would be trained on; else the whole completion.

Thresholds are not in the paper. Not found here, as there: paraphrases of evaluation problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import polars as pl
from pydantic import Field

from data.filters.groups import Duplicate, NearDuplicate, Surplus
from data.filters.kinds import Context, GroupFilter, RowFilter
from data.filters.prompts import NearDuplicatePrompt
from data.filters.rows import (
    CodeBlock,
    Compressible,
    Contaminated,
    LongParagraph,
    Malformed,
    MixedLanguage,
    NoSummary,
    NotCorrect,
    NoThinking,
    OverLong,
    Repetition,
    SummaryLanguage,
    Truncated,
)
from data.language import consistency, reflection_count
from data.units import units

__all__ = [
    "CodeBlock",
    "Compressible",
    "Contaminated",
    "Context",
    "Duplicate",
    "FilterConfig",
    "GroupFilter",
    "LongParagraph",
    "Malformed",
    "MixedLanguage",
    "NearDuplicate",
    "NearDuplicatePrompt",
    "NoSummary",
    "NoThinking",
    "NotCorrect",
    "OverLong",
    "Repetition",
    "RowFilter",
    "SummaryLanguage",
    "Surplus",
    "Truncated",
    "apply",
    "units",
    "waterfall",
    "with_language",
]

FilterConfig = Annotated[
    NotCorrect
    | Malformed
    | NoThinking
    | NoSummary
    | Truncated
    | OverLong
    | MixedLanguage
    | SummaryLanguage
    | LongParagraph
    | CodeBlock
    | Compressible
    | Repetition
    | Contaminated
    | Duplicate
    | NearDuplicate
    | NearDuplicatePrompt
    | Surplus,
    Field(discriminator="name"),
]
"""One filter as a recipe writes it: `{name = "over_long", max_tokens = 4096}`."""


def apply(
    frame: pl.DataFrame, filters: Sequence[RowFilter | GroupFilter], context: Context | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(kept, dropped) of a table in memory, both by id within their reason; `dropped` has two more columns,
    `reason` and `detail`. `data.build` does the same in shards.

    Raises ValueError where two rows have one id.
    """
    doubled = frame["id"].filter(frame["id"].is_duplicated())
    if len(doubled):
        raise ValueError(f"{len(doubled)} rows share their id with another, for example {doubled[0]!r}")
    kept, dropped = frame.sort("id"), [_reasoned(frame.clear(), "", pl.Series("detail", [], pl.String))]
    for each in filters:
        details = each.details(kept, context or Context()) if isinstance(each, RowFilter) else _compared(each, kept)
        fires = details.is_not_null()
        dropped.append(_reasoned(kept.filter(fires), name_of(each), details.filter(fires)))
        kept = kept.filter(~fires)
    return kept, pl.concat(dropped)


def _compared(each: GroupFilter, frame: pl.DataFrame) -> pl.Series:
    facts = frame.with_columns(each.facts(frame))
    suspects = each.suspects(facts)
    if suspects is not None:
        looks = pl.DataFrame([frame.filter(suspects)["id"], *each.looks(frame.filter(suspects))])
        facts = facts.join(looks, on="id", how="left", maintain_order="left")
    return each.details(facts)


def name_of(each: RowFilter | GroupFilter) -> str:
    """The name that a recipe calls a filter by, which is the reason of what it drops."""
    name: str = type(each).model_fields["name"].default
    return name


def waterfall(
    frame_in: pl.DataFrame, dropped: pl.DataFrame, kept: pl.DataFrame, filters: Sequence[RowFilter | GroupFilter] = ()
) -> pl.DataFrame:
    """(reason, rows): "in", then each reason in order, then "kept"; with `filters` also those that drop none.

    Raises ValueError where rows were lost or won on the way.
    """
    if len(frame_in) != len(dropped) + len(kept):
        raise ValueError(f"{len(frame_in)} rows came in, {len(dropped)} dropped and {len(kept)} kept went out")
    rows = dict.fromkeys((name_of(each) for each in filters), 0)
    for reason in dropped["reason"]:
        rows[reason] = rows.get(reason, 0) + 1
    steps = [("in", len(frame_in)), *rows.items(), ("kept", len(kept))]
    return pl.DataFrame(steps, schema={"reason": pl.String, "rows": pl.Int64}, orient="row")


def with_language(frame: pl.DataFrame) -> pl.DataFrame:
    """The table with `consistency` and `reflections` measured anew from `thinking` and `language`."""
    pairs = list(zip(frame["thinking"], frame["language"], strict=True))
    ratios = [consistency(text, language).ratio if text is not None else None for text, language in pairs]
    reflections = [reflection_count(text or "") for text, _ in pairs]
    return frame.with_columns(
        pl.Series("consistency", ratios, pl.Float64), pl.Series("reflections", reflections, pl.Int32)
    )


def _reasoned(frame: pl.DataFrame, reason: str, details: pl.Series) -> pl.DataFrame:
    return frame.with_columns(pl.lit(reason, pl.String).alias("reason"), details.alias("detail"))
