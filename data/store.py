"""Parquet files, whole and by their rows.

A table is written beside its place and renamed, so whoever reads it finds it whole or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import polars as pl


def write_table(path: Path, frame: pl.DataFrame) -> None:
    """Write a table as Parquet (zstd) at once or not at all; its folder has to exist."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        frame.write_parquet(beside, compression="zstd")
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read_table(path: Path) -> pl.DataFrame:
    """Read a table whole. Raises ValueError where there is none."""
    if not path.is_file():
        raise ValueError(f"no table at {path}")
    return pl.read_parquet(path, glob=False)


def query(sql: str, rows: pl.DataFrame, **values: object) -> pl.Series:
    """The text column that a query by DuckDB makes of `rows`, which gets the number of each row as `place`."""
    with duckdb.connect(":memory:") as connection:
        connection.register("rows", rows.with_row_index("place").to_arrow())
        found = connection.execute(sql, values or None).fetchall()
    return pl.Series([detail for (detail,) in found], dtype=pl.String)


def has_row(path: Path, row: str) -> bool:
    """Whether a table has a row of this id, or one that answers the problem of this id; only those columns are read."""
    if not path.is_file():
        return False
    known = {"id", "problem_id"} & set(pl.read_parquet_schema(path))
    asked = " OR ".join(f"{column} = $row" for column in sorted(known))
    query = f"SELECT 1 FROM read_parquet($path) WHERE {asked} LIMIT 1"
    with duckdb.connect(":memory:") as connection:
        return bool(known) and connection.execute(query, {"path": str(path), "row": row}).fetchone() is not None


def rows_of(path: Path, ids: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a table that have one of these ids; of the others only the ids are read."""
    with duckdb.connect(":memory:") as connection:
        found = connection.execute(
            "SELECT * FROM read_parquet($path) WHERE list_contains($ids, id)", {"path": str(path), "ids": list(ids)}
        )
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]
