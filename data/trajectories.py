"""The texts of a table of trajectories that filters look at."""

from __future__ import annotations

from functools import cache

import polars as pl

from data.units import parts


def texts(frame: pl.DataFrame) -> pl.Series:
    """Thinking and answer of each row as they would be trained on; the completion where these are not known."""
    whole = pl.concat_str("thinking", "answer", separator="\n")  # null where either is
    return frame.select(pl.coalesce(whole, "completion").fill_null("").alias("text")).to_series()


def thinking() -> pl.Expr:
    """The thinking of each row; the completion where it is not known."""
    return pl.coalesce("thinking", "completion").fill_null("")


def thinking_of(frame: pl.DataFrame) -> pl.Series:
    """`thinking` as a column."""
    return frame.select(thinking().alias("thinking")).to_series()


@cache
def evaluation_parts(evaluation: tuple[str, ...], size: int) -> frozenset[str]:
    """Runs of `size` units of the evaluation texts, each shorter text as a whole."""
    return frozenset(part for text in evaluation for part in parts(text, size)) - {""}
