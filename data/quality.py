"""How good the rows are that a build kept: as they were judged, and, where defects were planted, by the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import duckdb
import polars as pl

_JUDGED: Final = """
    SELECT count(*) AS kept, avg(CAST(verdict = 'correct' AS INT)) AS correct, avg(reward) AS reward,
           avg(consistency) AS consistency, avg(tokens) AS tokens
    FROM read_parquet($kept)
"""
_PLANTED: Final = """
    WITH known AS (
        SELECT defect IS NULL AS clean, id IN (SELECT id FROM read_parquet($kept)) AS kept FROM truth
        WHERE id IN (SELECT id FROM read_parquet($kept) UNION ALL SELECT id FROM read_parquet($dropped))
    )
    SELECT count(*) FILTER (clean AND kept) / nullif(count(*) FILTER (kept), 0) AS clean,
           count(*) FILTER (NOT clean AND NOT kept) / nullif(count(*) FILTER (NOT clean), 0) AS caught,
           count(*) FILTER (clean AND kept) / nullif(count(*) FILTER (clean), 0) AS spared
    FROM known
"""


def read_truth(path: Path) -> pl.DataFrame:
    """(id, defect) of rows whose defects are known. Raises ValueError where the file has no such columns."""
    if not path.is_file() or path.suffix not in (".parquet", ".jsonl"):
        raise ValueError(f"{path}: no .jsonl or .parquet file of known defects")
    try:
        frame = pl.read_parquet(path, glob=False) if path.suffix == ".parquet" else pl.read_ndjson(path)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path.name}: {str(error).partition(chr(10))[0]}") from None
    if missing := [name for name in ("id", "defect") if name not in frame.columns]:
        raise ValueError(f"{path.name}: no column {missing[0]!r}; it has {', '.join(frame.columns)}")
    return frame.select(pl.col("id", "defect").cast(pl.String))


def quality(folder: Path, truth: pl.DataFrame | None = None) -> dict[str, Any]:
    """Figures of a build's folder, as far as they are known.

    `kept` rows, of which `correct` is the share judged so, with the means of `reward`, `consistency` and `tokens`.
    With a truth, `clean` is the share of kept rows without a defect, `caught` the share of defects dropped, and
    `spared` the share of clean rows kept. `quality` is `clean` where it is known, else `correct`.
    """
    kept, dropped = str(folder / "kept.parquet"), str(folder / "dropped.parquet")
    with duckdb.connect(":memory:") as connection:
        figures = _row(connection, _JUDGED, {"kept": kept})
        if truth is not None:
            connection.register("truth", truth.to_arrow())
            figures |= _row(connection, _PLANTED, {"kept": kept, "dropped": dropped})
    return figures | {"quality": figures["clean"] if truth is not None else figures["correct"]}


def _row(connection: duckdb.DuckDBPyConnection, sql: str, values: dict[str, str]) -> dict[str, Any]:
    found = connection.execute(sql, values)
    names = [column[0] for column in found.description or ()]
    [row] = found.fetchall()
    return dict(zip(names, row, strict=True))
