"""Tables that are whole or absent, and views over runs."""

from pathlib import Path

import duckdb
import polars as pl
import pytest

from data.store import connect, read_table, write_table

FRAME = pl.DataFrame({"id": ["a", "b"], "score": [1.5, None]})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_table(tmp_path / "rows.parquet", FRAME)
    assert read_table(tmp_path / "rows.parquet").equals(FRAME)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


def test_a_failed_write_leaves_the_old_table(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_table(path, FRAME)
    unwritable = pl.DataFrame({"x": [object()]})
    with pytest.raises(pl.exceptions.ComputeError):
        write_table(path, unwritable)
    assert read_table(path).equals(FRAME)
    assert [each.name for each in tmp_path.iterdir()] == ["rows.parquet"]


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no table at .*absent\.parquet"):
        read_table(tmp_path / "absent.parquet")


def test_views_unite_runs_by_name(tmp_path: Path) -> None:
    runs = tmp_path / "it's here"
    for run, frame in {
        "curate-1": FRAME,
        "curate-2": pl.DataFrame({"id": ["c"], "detail": ["why"]}),
        ".curate-3": pl.DataFrame({"id": ["unfinished"]}),
    }.items():
        (runs / run).mkdir(parents=True)
        write_table(runs / run / "rows.parquet", frame)
    database = connect(runs)
    assert database.sql("SELECT run, id, score, detail FROM rows ORDER BY id").fetchall() == [
        ("curate-1", "a", 1.5, None),
        ("curate-1", "b", None, None),
        ("curate-2", "c", None, "why"),
    ]
    with pytest.raises(duckdb.CatalogException, match="trajectories"):
        database.sql("SELECT * FROM trajectories")


def test_the_database_reaches_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write_table(tmp_path / "run" / "kept.parquet", FRAME)
    write_table(tmp_path / "other.parquet", FRAME)
    database = connect(tmp_path)
    with pytest.raises(duckdb.Error):
        database.sql("INSERT INTO kept VALUES ('run', 'c', 1.0)")
    with pytest.raises(duckdb.Error):
        database.sql(f"SELECT * FROM '{tmp_path}/other.parquet'").fetchall()
    with pytest.raises(duckdb.Error):
        database.sql(f"COPY (SELECT 1) TO '{tmp_path}/new.parquet'")
    with pytest.raises(duckdb.Error):
        database.sql("SET enable_external_access = true")


def test_no_runs_no_views(tmp_path: Path) -> None:
    assert connect(tmp_path / "absent").sql("SELECT count(*) FROM duckdb_views() WHERE NOT internal").fetchall() == [
        (0,)
    ]
