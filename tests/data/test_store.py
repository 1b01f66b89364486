"""Tables that are whole or absent."""

from pathlib import Path

import polars as pl
import pytest

from data.store import read_table, write_table

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
