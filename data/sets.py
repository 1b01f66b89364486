"""A fine-tuning set as others read it: one table, in Parquet and as JSON lines, and what is in it by domain.

Columns stand in one order, `COLUMNS`, in both files; `messages` is the chat form of prompt and completion. Raise
`SCHEMA_VERSION` when a column's name, place, type or meaning changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from data.mixture import domain_in_sql
from data.prompts import USER, messages
from data.waterfall import NO_DOMAINS

SCHEMA_VERSION: Final = 1
VERSION_KEY: Final = "r1.schema_version"
PARQUET, JSON_LINES = "rows.parquet", "rows.jsonl"
BATCH: Final = 2048  # rows held at a time

_TEXTS: Final = ("id", "family", "language", "source", "prompt", "completion")
COLUMNS: Final = (*_TEXTS, "messages")
_MESSAGE: Final = pa.struct([("role", pa.string()), ("content", pa.string())])
_SCHEMA: Final = pa.schema(
    [*((name, pa.string()) for name in _TEXTS), ("messages", pa.list_(_MESSAGE))],
    metadata={VERSION_KEY: str(SCHEMA_VERSION)},
)


def write_set(rows: Path, folder: Path) -> int:
    """Write `rows.parquet` and `rows.jsonl` of a set's rows into a folder, in their order; returns how many.

    `rows` is the table that a build leaves. Raises ValueError where it lacks a column.
    """
    count = 0
    with (
        pq.ParquetWriter(folder / PARQUET, _SCHEMA, compression="zstd") as table,
        (folder / JSON_LINES).open("w", encoding="utf-8") as lines,
    ):
        for batch in _batches(rows):
            table.write_table(pa.Table.from_pylist(batch, schema=_SCHEMA))
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in batch)
            count += len(batch)
    return count


def _batches(rows: Path) -> Iterator[list[dict[str, Any]]]:
    with pq.ParquetFile(rows) as file:
        if missing := [name for name in _TEXTS if name not in file.schema_arrow.names]:
            raise ValueError(f"{rows}: no column {missing[0]!r}; another version made it")
        for batch in file.iter_batches(BATCH, columns=list(_TEXTS)):
            yield [{name: row[name] for name in _TEXTS} | _chat(row) for row in batch.to_pylist()]


def _chat(row: Mapping[str, str]) -> dict[str, Any]:
    return {"messages": messages(row["prompt"], row["completion"])}


def composition(folder: Path, domains: Mapping[str, Sequence[str]] = NO_DOMAINS) -> pl.DataFrame:
    """What is in a set, as the paper's Table 5 has it: (domain, samples, rounds, tokens), "total" last.

    `folder` is that of a build, `domains` its own by their families. Rounds are the mean of the questions in a row,
    tokens the mean of the responses' as sampling counted them, null where a domain has no sampled row.
    """
    sql = """
        SELECT if(grouping(r.domain) = 1, 'total', r.domain) AS domain, count(*) AS samples,
               avg(len(string_split(r.prompt, $user)) - 1) AS rounds, avg(k.tokens) AS tokens
        FROM (SELECT *, {domain} AS domain FROM read_parquet($rows)) r
        LEFT JOIN (SELECT id, tokens FROM read_parquet($kept)) k
          ON r.id = k.id AND r.source = 'trajectory'
        GROUP BY GROUPING SETS ((r.domain), ()) ORDER BY grouping(r.domain), samples DESC, domain
    """
    sql = sql.format(domain=domain_in_sql("family", domains))
    values = {"user": USER, "rows": str(folder / "rows.parquet"), "kept": str(folder / "kept.parquet")}
    with duckdb.connect(":memory:") as connection:
        found = connection.execute(sql, values).fetchall()
    schema = {"domain": pl.String, "samples": pl.Int64, "rounds": pl.Float64, "tokens": pl.Float64}
    return pl.DataFrame(found, schema=schema, orient="row")
