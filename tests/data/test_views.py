"""Views over what finished stages made: what they hold, and that nothing else can be read or written."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from data.lineage import RECORD, RECORDED, write_json
from data.store import write_table
from data.views import VIEWS, connect, rows

FRAME = pl.DataFrame({"id": ["a", "b"], "score": [1.5, None]})


def asked(database: Any, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in rows(database, sql)]


def finished(runs: Path, key: str, parents: list[str] | None = None) -> Path:
    (runs / key).mkdir(parents=True, exist_ok=True)
    above = [{"argument": "rows", "name": parent, "key": parent} for parent in parents or []]
    told = {"key": key, "name": f"the {key}", "stage": key.split("-")[0], "version": 2, "config": {"lr": 0.1}}
    write_json(runs / key / RECORD, dict.fromkeys(RECORDED, 0) | told | {"summary": {"rows": 2}, "parents": above})
    return runs / key


def test_views_unite_finished_runs_by_name(tmp_path: Path) -> None:
    runs = tmp_path / "it's here"
    write_table(finished(runs, "curate-1") / "rows.parquet", FRAME)
    (finished(runs, "curate-2") / "rows").mkdir()  # in shards
    for shard, row in enumerate("cd"):
        write_table(runs / "curate-2" / "rows" / f"{shard}.parquet", pl.DataFrame({"id": [row], "detail": ["why"]}))
    for unfinished in (".curate-3", "curate-4"):
        (runs / unfinished).mkdir()
        write_table(runs / unfinished / "rows.parquet", pl.DataFrame({"id": ["unfinished"]}))
    database = connect(runs)
    assert asked(database, "SELECT run, id, score, detail FROM rows ORDER BY id") == [
        ("curate-1", "a", 1.5, None),
        ("curate-1", "b", None, None),
        ("curate-2", "c", None, "why"),
        ("curate-2", "d", None, "why"),
    ]
    with pytest.raises(ValueError, match=r"^no finished stage has trajectories yet$"):
        asked(database, "SELECT * FROM trajectories")


def test_a_reward_has_a_row_for_each_of_its_parts(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"id": ["a", "b"], "problem_id": ["p", "p"], "step": [3, 3], "reward": [2.0, 0.0],
         "reward_accuracy": [1.0, 0.0], "reward_format": [1.0, None]}
    )  # fmt: skip
    write_table(finished(tmp_path, "reinforce-1") / "trajectories.parquet", frame)
    assert asked(connect(tmp_path), "SELECT * FROM rewards ORDER BY id, part") == [
        ("reinforce-1", "a", "p", 3, "accuracy", 1.0),
        ("reinforce-1", "a", "p", 3, "format", 1.0),
        ("reinforce-1", "b", "p", 3, "accuracy", 0.0),
    ]


def test_runs_tells_settings_parents_and_recipes(tmp_path: Path) -> None:
    finished(tmp_path, "curate-0")
    finished(tmp_path, "finetune-1", ["curate-0"])
    (tmp_path / "my-recipe").mkdir()
    write_json(tmp_path / "my-recipe" / "recipe.json", {})
    write_json(tmp_path / "my-recipe" / "report.json", {"stages": [{"stage": "finetune", "fingerprint": "1"}]})
    sql = (
        "SELECT run, name, version, recipes, parents[1].run AS parent, CAST(config->>'lr' AS DOUBLE) AS lr, "
        "CAST(summary->>'rows' AS INT) AS n FROM runs ORDER BY run"
    )
    assert list(rows(connect(tmp_path), sql)) == [
        {"run": "curate-0", "name": "the curate-0", "version": 2, "recipes": [], "parent": None, "lr": 0.1, "n": 2},
        {"run": "finetune-1", "name": "the finetune-1", "version": 2, "recipes": ["my-recipe"], "parent": "curate-0",
         "lr": 0.1, "n": 2},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO runs (run) VALUES ('x')",
        "DELETE FROM runs",
        "DROP VIEW kept",
        "CREATE TABLE mine AS SELECT 1",
        "COPY (SELECT 1) TO '{folder}/new.parquet'",
        "COPY (SELECT 1) TO '{folder}/runs/curate-1/kept.parquet'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{folder}/runs/curate-1/kept.parquet'",
        "EXPORT DATABASE '{folder}/all'",
        "ATTACH '{folder}/new.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "PRAGMA enable_profiling",
        "SELECT 1; DROP VIEW kept",
        "",
    ],
)
def test_only_a_select_is_asked(sql: str, tmp_path: Path) -> None:
    write_table(finished(tmp_path / "runs", "curate-1") / "kept.parquet", FRAME)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    database = connect(tmp_path / "runs")
    with pytest.raises(ValueError, match=r"^only one SELECT at a time can be asked; nothing here is written to$"):
        asked(database, sql.format(folder=tmp_path))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM '{folder}/other.parquet'",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT * FROM read_csv('https://example.org/a.csv')",
        "SELECT * FROM FRAME",  # a table of Python's
        "SELECT * FROM query('DROP VIEW kept')",
    ],
)
def test_a_query_reaches_nothing_else(sql: str, tmp_path: Path) -> None:
    write_table(finished(tmp_path / "runs", "curate-1") / "kept.parquet", FRAME)
    write_table(tmp_path / "other.parquet", FRAME)
    database = connect(tmp_path / "runs")
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        asked(database, sql.format(folder=tmp_path))
    assert asked(database, "SELECT count(*) FROM kept") == [(2,)]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELEC 1", 'Parser Error: syntax error at or near "SELEC"'),
        ("SELECT nosuch FROM kept", 'Referenced column "nosuch" not found in FROM clause! Candidate bindings: "'),
        ("SELECT CAST(id AS INT) FROM kept", "Could not convert string 'a' to INT32"),
    ],
)
def test_an_error_is_one_line(sql: str, message: str, tmp_path: Path) -> None:
    write_table(finished(tmp_path, "curate-1") / "kept.parquet", FRAME)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        asked(connect(tmp_path), sql)
    assert message in str(error.value)


def test_no_runs_no_rows(tmp_path: Path) -> None:
    database = connect(tmp_path / "absent")
    assert asked(database, "SELECT count(*) FROM runs") == [(0,)]
    for view in set(VIEWS) - {"runs"}:
        with pytest.raises(ValueError, match=f"^no finished stage has {view} yet$"):
            asked(database, f"SELECT * FROM {view}")
    assert not (tmp_path / "absent").exists()
