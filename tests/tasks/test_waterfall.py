"""The rows of a build by reason, domain and language, and the examples shown of each reason."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from data.store import write_table
from data.waterfall import breakdown, by_reason, examples
from tasks.describe import waterfall

#        id     problem  domain   language tokens reason
FATES = [
    ("a/0", "a", "chain", "en", 10, None),
    ("a/1", "a", "chain", "en", 20, "verdict"),
    ("a/2", "a", "chain", "en", 30, "verdict"),
    ("b/0", "b", "chain", "zh", 40, "verdict"),
    ("c/0", "c", "logic", "zh", 50, "verdict"),
    ("c/1", "c", "logic", "zh", 60, None),
    ("d/0", "d", "logic", "en", 70, "over_long"),
    ("d/1", "d", "logic", "en", 80, None),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    columns = ["id", "problem_id", "family", "language", "tokens", "reason"]
    frame = pl.DataFrame(FATES, columns, orient="row").with_columns(detail=pl.lit("found: ") + pl.col("id"))
    write_table(tmp_path / "kept.parquet", frame.filter(pl.col("reason").is_null()).drop("reason", "detail"))
    write_table(tmp_path / "dropped.parquet", frame.filter(pl.col("reason").is_not_null()))
    steps = {"reason": ["in", "verdict", "malformed", "over_long", "kept"], "rows": [8, 4, 0, 1, 3]}
    write_table(tmp_path / "waterfall.parquet", pl.DataFrame(steps))
    return tmp_path


def test_rows_are_counted_by_reason_domain_and_language(folder: Path) -> None:
    counts = breakdown(folder)
    assert counts.columns == ["reason", "domain", "language", "rows", "tokens", "share"]
    assert counts.rows() == [
        ("in", "chain", "en", 3, 60, 0.375),
        ("in", "chain", "zh", 1, 40, 0.125),
        ("in", "logic", "en", 2, 150, 0.25),
        ("in", "logic", "zh", 2, 110, 0.25),
        ("verdict", "chain", "en", 2, 50, 0.25),
        ("verdict", "chain", "zh", 1, 40, 0.125),
        ("verdict", "logic", "zh", 1, 50, 0.125),
        ("malformed", None, None, 0, 0, 0.0),
        ("over_long", "logic", "en", 1, 70, 0.125),
        ("kept", "chain", "en", 1, 10, 0.125),
        ("kept", "logic", "en", 1, 80, 0.125),
        ("kept", "logic", "zh", 1, 60, 0.125),
    ]


def test_what_came_in_is_what_was_taken_and_kept(folder: Path) -> None:
    table = by_reason(breakdown(folder))
    assert table.columns == ["reason", "rows", "share", "tokens", "chain", "logic", "in en", "in zh"]
    assert table["reason"].to_list() == ["in", "verdict", "malformed", "over_long", "kept"]
    for name in table.columns[1:]:
        assert table[name][0] == table[name][1:].sum()
    assert table.row(1) == ("verdict", 4, 0.5, 140, 3, 1, 2, 2)


def test_examples_are_of_different_problems_and_say_how_many_there_are(folder: Path) -> None:
    assert examples(folder, 2).select("reason", "id", "detail", "of").rows() == [
        ("verdict", "a/1", "found: a/1", 4),
        ("verdict", "b/0", "found: b/0", 4),
        ("over_long", "d/0", "found: d/0", 1),
    ]
    assert len(examples(folder, 9)) == 4


def test_the_description_tells_all_of_it(folder: Path) -> None:
    lines = waterfall(folder).splitlines()
    assert lines[0] == "| | rows | share | tokens | chain | logic | in en | in zh |"
    assert lines[2:7] == [
        "| in | 8 | 100.0 % | 360 | 4 | 4 | 5 | 3 |",
        "| verdict | 4 | 50.0 % | 140 | 3 | 1 | 2 | 2 |",
        "| malformed | 0 | 0.0 % | 0 | 0 | 0 | 0 | 0 |",
        "| over_long | 1 | 12.5 % | 70 | 0 | 1 | 1 | 0 |",
        "| kept | 3 | 37.5 % | 150 | 1 | 2 | 2 | 1 |",
    ]
    assert lines[8:] == ["- verdict: `a/1` found: a/1", "- verdict: `b/0` found: b/0", "- over_long: `d/0` found: d/0"]


def test_a_build_that_drops_nothing_has_no_examples(folder: Path) -> None:
    write_table(folder / "dropped.parquet", pl.read_parquet(folder / "dropped.parquet").clear())
    assert examples(folder, 2).is_empty()
    assert by_reason(breakdown(folder))["rows"].to_list() == [3, 0, 0, 0, 3]


def test_families_are_counted_under_their_domain(folder: Path) -> None:
    table = by_reason(breakdown(folder, {"it's math": ["chain", "sum"]}))
    assert table.columns[4:6] == ["it's math", "logic"]
    assert table.row(1) == ("verdict", 4, 0.5, 140, 3, 1, 2, 2)
    whole = by_reason(breakdown(folder, {"reasoning": ["chain", "logic"]}))
    assert whole.columns[4:] == ["reasoning", "in en", "in zh"]
    assert whole["reasoning"].to_list() == whole["rows"].to_list()
