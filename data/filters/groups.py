"""The filters that compare the rows of one problem."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from typing import Literal

import polars as pl
from pydantic import Field

from data.filters.kinds import GroupFilter, details_of
from data.scan import runs
from data.store import query
from data.trajectories import texts
from data.units import numerals, run_hash, run_hashes, unit_hash, units


class Duplicate(GroupFilter):
    """Drops a text that another response to the same problem has, white space aside."""

    name: Literal["duplicate"] = "duplicate"

    def facts(self, frame: pl.DataFrame) -> list[pl.Series]:
        """A digest of the text after normalisation."""
        return [_measure(frame, "same_text", same_text, pl.Binary())]

    def details(self, facts: pl.DataFrame) -> pl.Series:
        """Id of the response that stays: the first by id."""
        first = pl.col("id").first().over("problem_id", "same_text")
        return facts.select(pl.when(first != pl.col("id")).then(first).alias("detail")).to_series()


def _measure(frame: pl.DataFrame, name: str, function: Callable[[str], object], dtype: pl.DataType) -> pl.Series:
    """A function of each row's text: read off the table where it was measured."""
    if f"walk.{name}" not in frame.columns:
        return pl.Series(name, map(function, texts(frame)), dtype)
    known = frame[f"walk.{name}"].rename(name)
    rows = known.is_null().arg_true()
    return known.scatter(rows, pl.Series(map(function, texts(frame[rows])), dtype=dtype)) if len(rows) else known


def same_text(text: str) -> bytes:
    """A digest that is equal for texts that are equal after Unicode composition, white space aside."""
    plain = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.blake2b(plain.encode(), digest_size=16).digest()


class NearDuplicate(GroupFilter):
    """Drops a response that hardly differs from another to the same problem.

    Texts with other numbers, numerals, arithmetic signs or single letters, or the same ones in another
    order, are never duplicates: a slip in one digit is what makes them worth keeping.
    """

    name: Literal["near_duplicate"] = "near_duplicate"
    min_similarity: float = Field(0.8, gt=0, le=1, description="Jaccard similarity of the shingles")
    shingle: int = Field(3, ge=1, description="units of a shingle")

    def facts(self, frame: pl.DataFrame) -> list[pl.Series]:
        """A hash of the numerals in order: only texts that share it need to be compared."""
        return [_measure(frame, "numerals", numerals_hash, pl.UInt64())]

    def suspects(self, facts: pl.DataFrame) -> pl.Series:
        """Rows that share their problem and their numerals with another."""
        return facts.select((pl.len().over("problem_id", "numerals") > 1).alias("suspect")).to_series()

    def looks(self, frame: pl.DataFrame, many: bool = False) -> list[pl.Series]:
        """The shingles' hashes."""
        return [shingles(texts(frame), self.shingle, many).alias("shingles")]

    def details(self, facts: pl.DataFrame) -> pl.Series:
        """Id of the kept partner: the first by id among those that are similar enough and stay themselves."""
        together = ["problem_id", "numerals"]
        found: list[str | None] = [None] * len(facts)
        alike = facts.with_row_index("row").filter(self.suspects(facts)).sort(together, maintain_order=True)
        rows = alike.select("row", "id", "shingles", *together).iter_rows()
        for _, group in groupby(rows, key=itemgetter(3, 4)):
            kept: list[tuple[str, frozenset[int]]] = []
            for place, id_, row, *_ in group:
                shingles = frozenset(row)
                close = (name for name, theirs in kept if jaccard(shingles, theirs) >= self.min_similarity)
                found[place] = next(close, None)
                if found[place] is None:
                    kept.append((id_, shingles))
        return details_of(found)


def shingles(text: pl.Series, size: int, many: bool) -> pl.Series:
    """The distinct hashes of each text's runs of `size` units, sorted; `many` says that machine code pays."""
    kind = pl.List(pl.UInt64)
    known = runs(text, size) if many else pl.Series([None], dtype=kind).new_from_index(0, len(text))
    rows = known.is_null().arg_true()
    others = pl.Series([sorted(run_hashes(units(each), size)) for each in text.gather(rows)], dtype=kind)
    order = pl.int_range(len(text), dtype=pl.UInt32, eager=True)
    order = order.scatter(rows, pl.int_range(len(text), len(text) + len(rows), dtype=pl.UInt32, eager=True))
    return pl.concat([known, others]).gather(order)


def numerals_hash(text: str) -> int:
    """One hash for the numerals of a text in order."""
    return run_hash(map(unit_hash, numerals(text)))


def jaccard(left: frozenset[int], right: frozenset[int]) -> float:
    """Share of what either set holds that both hold; 1 for two empty sets."""
    return len(left & right) / len(left | right) if left or right else 1.0


class Surplus(GroupFilter):
    """Keeps at most so many responses a problem: spread over their lengths, the shortest and longest among
    them."""

    name: Literal["surplus"] = "surplus"
    max_per_problem: int = Field(ge=1, description="responses kept of one problem")

    def details(self, facts: pl.DataFrame) -> pl.Series:
        """How many responses the problem had."""
        return query(
            """
            WITH ranked AS (
                SELECT place, count(*) OVER (PARTITION BY problem_id) AS n,
                       row_number() OVER (PARTITION BY problem_id ORDER BY tokens, id) - 1 AS rank
                FROM rows
            )
            SELECT CASE WHEN n > $most AND NOT list_contains(
                       CASE WHEN $most = 1 THEN [n // 2]
                            ELSE [step * (n - 1) // ($most - 1) FOR step IN range($most)] END, rank)
                   THEN 'of ' || n END AS detail
            FROM ranked ORDER BY place
            """,
            facts.select("id", "problem_id", "tokens"),
            most=self.max_per_problem,
        )
