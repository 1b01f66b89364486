"""What a filter is: one that looks at a row by itself, or one that looks at the rows of a problem together.

Both are settings with a name, and give a text for each row that they drop, null for the rest. A row filter
reads the texts. A group filter does not: texts of a problem may lie in many shards, so it says which few facts
of each row it needs (`facts`, taken where the text is at hand) and judges these. Where facts leave a doubt, it
names the rows whose texts it has to see once more (`suspects`), and takes what it needs of them (`looks`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from data.lineage import Settings


@dataclass(frozen=True, slots=True)
class Context:
    """What filters know beside the trajectories: the texts of evaluation problems and of their solutions,
    each a text of its own."""

    evaluation: Sequence[str] = ()


class RowFilter(Settings):
    """A filter that looks at one row at a time. `measured` says whether it reads the measures of `data.scan`."""

    measured: ClassVar[bool] = False

    def details(self, frame: pl.DataFrame, context: Context) -> pl.Series:
        """Text for the rows to drop, null for the others."""
        raise NotImplementedError


class Expression(RowFilter):
    """A row filter that is a Polars expression."""

    def expression(self) -> pl.Expr:
        """Text for the rows to drop, null for the others."""
        raise NotImplementedError

    def details(self, frame: pl.DataFrame, context: Context) -> pl.Series:
        """The expression's value for each row."""
        return frame.select(self.expression().cast(pl.String).alias("detail")).to_series()


class GroupFilter(Settings):
    """A filter that compares the rows of one problem; those before it have taken theirs away."""

    def facts(self, frame: pl.DataFrame) -> list[pl.Series]:
        """What has to be known of each row, as columns; the table's columns of `KEPT_FACTS` are known anyway."""
        return []

    def suspects(self, facts: pl.DataFrame) -> pl.Series | None:
        """Whether a row's text has to be seen again, given the facts of whole problems; None where none has."""
        return None

    def looks(self, frame: pl.DataFrame, many: bool = False) -> list[pl.Series]:
        """What has to be known of the suspects, as columns; `many` says that machine code pays."""
        return []

    def details(self, facts: pl.DataFrame) -> pl.Series:
        """Text for the rows to drop, null for the others. Rows are sorted by id, problems are whole."""
        raise NotImplementedError


KEPT_FACTS = ("id", "problem_id", "family", "language", "tokens")
"""Columns of the trajectories that every group filter can read."""


def asked(
    frame: pl.DataFrame, measure: str, doubt: pl.Expr, judge: Callable[..., str | None], *columns: pl.Series
) -> pl.Series:
    """Details by a function of some columns, asked about the rows only that a measure leaves in doubt, or knows
    nothing of; about all where nothing was measured (`data.scan`)."""
    if f"walk.{measure}" not in frame.columns:
        return details_of(map(judge, *columns))
    rows = frame.select((doubt | pl.col(f"walk.{measure}").is_null()).arg_true()).to_series()
    found = details_of(map(judge, *(column.gather(rows) for column in columns)))
    nothing = pl.Series("detail", [None], pl.String).new_from_index(0, len(frame))
    return nothing.scatter(rows, found) if len(rows) else nothing


def details_of(values: Iterable[str | None]) -> pl.Series:
    """Details as a column."""
    return pl.Series("detail", list(values), pl.String)
