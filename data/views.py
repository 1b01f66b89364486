"""Questions to all runs at once: views by DuckDB over what every finished stage made, read only.

A view unites the tables of one name by their columns and adds `run`, the folder that a row is from. `runs` has a
row for each of those folders. A query is one SELECT; it reaches no file but those tables.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import duckdb

from data.lineage import RECORD, Json, read_json, read_record

TABLES: Final = ("problems", "trajectories", "kept", "dropped", "rows")

VIEWS: Final[Mapping[str, str]] = {
    "problems": "questions and what judges their answers: id, key, family, language, prompt, solution, verifier",
    "trajectories": "answers of a policy: id, problem_id, thinking, answer, tokens, verdict, reward, its parts, step",
    "rewards": "one row for each part of a trajectory's reward: id, problem_id, step, part, value",
    "kept": "trajectories that a build took, with the columns of trajectories",
    "dropped": "trajectories that it did not take, with the reason and its detail",
    "rows": "rows of fine-tuning sets: id (its trajectory's), family, language, prompt, completion, source",
    "runs": "one row a folder: run, name, stage, version, recipes, made_at, wall_s, device, config, summary, parents",
}
"""What there is to ask; every view but `runs` has the column `run` to join it by."""

MOST_SHOWN: Final = 100
"""Rows of an answer that is printed as a table."""

_RUNS: Final = """
    CREATE TABLE runs (
        run VARCHAR, name VARCHAR, stage VARCHAR, version INTEGER, recipes VARCHAR[], made_at TIMESTAMPTZ,
        wall_s DOUBLE, device VARCHAR, config JSON, summary JSON,
        parents STRUCT(argument VARCHAR, name VARCHAR, run VARCHAR)[]
    )
"""
_REWARDS: Final = """
    CREATE VIEW rewards AS SELECT run, id, problem_id, step, replace(part, 'reward_', '') AS part, value
    FROM (UNPIVOT trajectories ON COLUMNS('^reward_') INTO NAME part VALUE value)
"""


def connect(runs: Path) -> duckdb.DuckDBPyConnection:
    """A database in memory with `runs`, and each of the other `VIEWS` that some finished stage has rows for.

    Nothing outside can be reached by it; what it cannot hold in memory rests in the system's temporary folder.
    """
    runs = runs.resolve()
    connection = duckdb.connect(":memory:")
    records = {path.parent: read_record(path.parent) for path in sorted(runs.glob(f"[!.]*/{RECORD}"))}
    connection.execute(_RUNS)
    _insert(connection, records, _recipes(runs))
    found = {table: [str(file) for folder in records for file in _files(folder, table)] for table in TABLES}
    for table, files in found.items():
        if files:
            connection.execute(_view(table, files, len(runs.parts) + 1))
    if found["trajectories"]:
        connection.execute(_REWARDS)
    everything = _list([file for files in found.values() for file in files])
    connection.execute(f"SET allowed_paths = {everything}")
    connection.execute(f"SET temp_directory = {_quoted(f'{tempfile.gettempdir()}/r1-sql-{os.getpid()}')}")
    for setting in ("python_enable_replacements", "autoinstall_known_extensions", "enable_external_access"):
        connection.execute(f"SET {setting} = false")
    connection.execute("SET lock_configuration = true")
    return connection


def rows(connection: duckdb.DuckDBPyConnection, sql: str) -> Iterator[dict[str, Any]]:
    """The rows of the answer to one SELECT, as they are read.

    Raises ValueError in one line for any other statement, and for what is wrong with this one.
    """
    try:
        answer = connection.execute(_select(connection, sql))
        names = [column[0] for column in answer.description or ()]
        while batch := answer.fetchmany(1000):
            yield from (dict(zip(names, row, strict=True)) for row in batch)
    except duckdb.Error as error:
        raise ValueError(_told(error)) from None


def show(connection: duckdb.DuckDBPyConnection, sql: str, width: int) -> None:
    """Print the answer to one SELECT as a table of so many characters; a long one without its middle.

    Raises as `rows` does.
    """
    try:
        connection.sql(_select(connection, sql)).show(max_width=width, max_rows=MOST_SHOWN)
    except duckdb.Error as error:
        raise ValueError(_told(error)) from None


def _select(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    statements = connection.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise ValueError("only one SELECT at a time can be asked; nothing here is written to")
    return statements[0].query


def _told(error: duckdb.Error) -> str:
    """What DuckDB says in one line; of a view that nothing has been made for yet, that."""
    message = str(error).partition("\n\nLINE ")[0]
    for view in VIEWS:
        if f"Table with name {view} does not exist" in message:
            return f"no finished stage has {view} yet"
    return " ".join(message.split())


def _insert(
    connection: duckdb.DuckDBPyConnection,
    records: Mapping[Path, Mapping[str, Json]],
    recipes: Mapping[str, Sequence[str]],
) -> None:
    for folder, record in records.items():
        parents = [
            {"argument": parent["argument"], "name": parent["name"], "run": parent["key"]}
            for parent in record["parents"]
        ]
        values = [
            folder.name,
            *(record[name] for name in ("name", "stage", "version")),
            list(recipes.get(folder.name, ())),
            record.get("made_at"),
            record["wall_s"],
            record.get("made_on", {}).get("device"),
            *(json.dumps(record[name], ensure_ascii=False) for name in ("config", "summary")),
            parents,
        ]
        connection.execute(f"INSERT INTO runs VALUES ({', '.join('?' * len(values))})", values)


def _recipes(runs: Path) -> dict[str, list[str]]:
    """The recipes, by the artifacts that their last runs have."""
    found: dict[str, list[str]] = {}
    for report in sorted(runs.glob("[!.]*/report.json")):
        if (report.parent / "recipe.json").is_file():
            for stage in read_json(report)["stages"]:
                found.setdefault(f"{stage['stage']}-{stage['fingerprint']}", []).append(report.parent.name)
    return found


def _files(folder: Path, table: str) -> list[Path]:
    """The files of a table: one, or a folder of shards."""
    whole = folder / f"{table}.parquet"
    return [whole] if whole.is_file() else sorted((folder / table).glob("*.parquet"))


def _view(table: str, files: Sequence[str], place: int) -> str:
    """`place` is that of an artifact's folder in a path, from 1."""
    return (
        f'CREATE VIEW "{table}" AS SELECT parse_path("filename")[{place}] AS run, * EXCLUDE ("filename") '
        f"FROM read_parquet({_list(files)}, union_by_name = true, filename = true)"
    )


def _list(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_quoted, texts))}]"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
