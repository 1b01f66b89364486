"""Where the rows of a build went: from in to out by reason, domain and language, and rows to look at.

What is read are the few columns that are counted, and the texts of the examples alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import duckdb
import polars as pl

from data.mixture import domain_in_sql
from data.store import read_table

IN, BROKEN, KEPT = "in", "broken", "kept"
NO_DOMAINS: Final[Mapping[str, Sequence[str]]] = {}
_COUNTS: Final = """
    SELECT reason, {domain} AS domain, language, count(*) AS rows, sum(tokens) AS tokens FROM (
        SELECT $name AS reason, family, language, tokens FROM read_parquet($kept)
        UNION ALL SELECT reason, family, language, tokens FROM read_parquet($dropped)
    ) GROUP BY ALL ORDER BY ALL
"""
_EXAMPLES: Final = """
    WITH firsts AS (
        SELECT id, reason, row_number() OVER (PARTITION BY reason ORDER BY id) AS place
        FROM (SELECT reason, problem_id, min(id) AS id FROM read_parquet($dropped) GROUP BY ALL)
    ), counted AS (SELECT reason, count(*) AS of FROM read_parquet($dropped) GROUP BY ALL)
    SELECT id, of FROM firsts JOIN counted USING (reason) WHERE place <= $count
"""


def breakdown(folder: Path, domains: Mapping[str, Sequence[str]] = NO_DOMAINS) -> pl.DataFrame:
    """(reason, domain, language, rows, tokens, share) of a build's folder: what came "in", what each reason took, and
    what was "kept", in this order.

    `domains` are the build's own, by their families; a family in none is a domain itself. A share is of all
    rows that came in. A filter that took nothing has one row with null for domain and language; so have the rows that
    were set aside as broken, of which nobody knows them.
    """
    files = {name: str(folder / f"{name}.parquet") for name in ("kept", "dropped")}
    with duckdb.connect(":memory:") as connection:
        found = connection.execute(
            _COUNTS.format(domain=domain_in_sql("family", domains)), {"name": KEPT} | files
        ).fetchall()
    schema = {"reason": pl.String, "domain": pl.String, "language": pl.String, "rows": pl.Int64, "tokens": pl.Int64}
    counts = pl.DataFrame(found, schema, orient="row")
    unread = read_table(folder / "waterfall.parquet").filter(pl.col("reason") == BROKEN, pl.col("rows") > 0)
    nobody = pl.lit(None, pl.String)
    unread = unread.with_columns(domain=nobody, language=nobody, tokens=pl.lit(0, pl.Int64)).select(*schema)
    counts = pl.concat([counts, unread])
    came = counts.group_by("domain", "language").agg(pl.sum("rows", "tokens")).with_columns(reason=pl.lit(IN))
    order = read_table(folder / "waterfall.parquet").select("reason").with_row_index("place")
    every = pl.concat([came.select(*schema), counts])
    return (
        order.join(every, on="reason", how="left")
        .with_columns(pl.col("rows", "tokens").fill_null(0))
        .with_columns(share=pl.col("rows") / came["rows"].sum())
        .sort("place", "domain", "language")
        .drop("place")
    )


def by_reason(counts: pl.DataFrame) -> pl.DataFrame:
    """A breakdown with a row for each reason: rows, share, tokens, then the rows of each domain and language."""
    total = counts.group_by("reason", maintain_order=True).agg(pl.sum("rows", "share", "tokens"))
    for column, name in (("domain", "{}"), ("language", "in {}")):
        for value in sorted(counts[column].drop_nulls().unique()):
            part = (
                counts.filter(pl.col(column) == value).group_by("reason").agg(pl.sum("rows").alias(name.format(value)))
            )
            total = total.join(part, on="reason", how="left", maintain_order="left")
    return total.fill_null(0)


def examples(folder: Path, count: int) -> pl.DataFrame:
    """Rows of `dropped`, so many of each reason and of different problems, by reason in the filters' order and id.

    The column `of` has how many rows the reason took.
    """
    dropped = str(folder / "dropped.parquet")
    with duckdb.connect(":memory:") as connection:
        found = connection.execute(_EXAMPLES, {"dropped": dropped, "count": count}).fetchall()
    chosen = pl.DataFrame(found, {"id": pl.String, "of": pl.Int64}, orient="row")
    return (
        pl.scan_parquet(dropped, glob=False)
        .filter(pl.col("id").is_in(chosen["id"].to_list()))
        .collect()
        .join(chosen, on="id", how="left", maintain_order="left")
    )
