"""The measure of a build: known verdicts give known scores."""

import sys
from pathlib import Path

import polars as pl
import pytest

from benchmarks.audit import COPIES, REASONS, Score, partners_named, scores, wrong
from benchmarks.defects import DEFECTS
from benchmarks.footprint import watched
from benchmarks.near_misses import NEAR_MISSES
from benchmarks.planting import PROMPT_NEAR_MISSES, PROMPTS

PLANTED = [
    ("math/1/0", None, None, None),
    ("math/1/1", "duplicate/same", "math/1/0", None),
    ("math/1/2", "near_duplicate/words", "math/1/0", None),
    ("math/2/0", "near_prompt/word", "math/1", None),
    ("math/3/0", "verdict/wrong", None, None),
    ("math/3/1", "truncated/in_thinking", None, None),
    ("math/3/2", "no_summary/empty", None, None),
    ("math/4/0", None, None, "repetition/steps"),
]


def truth() -> pl.DataFrame:
    columns = ("id", "defect", "partner", "near_miss")
    frame = pl.DataFrame(PLANTED, schema=dict.fromkeys(columns, pl.String), orient="row")
    return frame.with_columns(pl.col("id").str.replace(r"/\d$", "").alias("problem_id"))


def dropped(*rows: tuple[str, str, str]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict.fromkeys(("id", "reason", "detail"), pl.String), orient="row")


ALL = (
    ("math/1/1", "duplicate", "math/1/0"),
    ("math/1/2", "near_duplicate", "math/1/0"),
    ("math/2/0", "near_duplicate_prompt", "math/1/0"),
    ("math/3/0", "verdict", "wrong"),
    ("math/3/1", "no_summary", ""),
    ("math/3/2", "no_summary", ""),
)


def test_all_found() -> None:
    found = scores(truth(), dropped(*ALL))
    assert {name for name, score in found.items() if score.planted} == {
        *("duplicate", "near_duplicate", "near_prompt", "verdict", "truncated", "no_summary")
    }
    assert all((score.precision, score.recall) == (1, 1) for score in found.values())
    assert partners_named(truth(), dropped(*ALL)) == Score(3, 3, 3)
    assert wrong(truth(), dropped(*ALL)).is_empty()


def test_a_missed_one_lowers_the_recall_and_a_good_one_the_precision() -> None:
    said = dropped(*ALL[1:], ("math/4/0", "repetition", "4 x"), ("math/1/0", "verdict", "wrong"))
    found = scores(truth(), said)
    assert found["duplicate"] == Score(1, 0, 0)
    assert (found["duplicate"].precision, found["duplicate"].recall) == (1, 0)
    assert found["repetition"] == Score(0, 1, 0)
    assert found["repetition"].precision == 0
    assert found["verdict"] == Score(1, 2, 1)
    assert wrong(truth(), said).select("what", "reason", "rows", "id").rows() == [
        ("duplicate/same", None, 1, "math/1/1"),
        ("good", "verdict", 1, "math/1/0"),
        ("near miss repetition/steps", "repetition", 1, "math/4/0"),
    ]


def test_another_reason_is_neither_found_nor_right() -> None:
    found = scores(truth(), dropped(("math/3/0", "truncated", "")))
    assert found["verdict"] == Score(1, 0, 0)
    assert found["truncated"] == Score(1, 1, 0)


def test_a_row_that_was_not_wanted_is_no_fault() -> None:
    assert wrong(truth(), dropped(*ALL, ("math/1/0", "surplus", "of 8"), ("math/4/0", "over_quota", ""))).is_empty()


def test_a_wrong_partner_is_counted() -> None:
    said = dropped(("math/1/1", "duplicate", "math/4/0"), *ALL[1:2], ("math/2/0", "near_duplicate_prompt", "math/3/0"))
    assert partners_named(truth(), said) == Score(3, 3, 1)


def test_every_defect_has_its_reasons() -> None:
    assert {name.partition("/")[0] for name in (*DEFECTS, *PROMPTS)} == set(REASONS)
    assert set(COPIES) <= set(REASONS)
    assert {name.partition("/")[0] for name in (*NEAR_MISSES, *PROMPT_NEAR_MISSES)} <= set(REASONS)


def test_a_footprint_sees_children_and_files(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, pathlib, time\n"
        f"pathlib.Path({str(tmp_path / 'file')!r}).write_bytes(bytes(3_000_000))\n"
        "child = 'import time; held = bytearray(b\"x\") * 80_000_000; time.sleep(1.5)'\n"
        "subprocess.run([sys.executable, '-c', child], check=True)\n"
        f"pathlib.Path({str(tmp_path / 'file')!r}).unlink()\n"
        "print('first'); print('last')\n"
    )
    took = watched([sys.executable, "-c", script], [tmp_path])
    assert took.seconds >= 1.5
    assert took.processor > 0
    assert took.disk == 3_000_000
    assert 80_000_000 <= took.memory <= 300_000_000
    assert took.last_line == "last"


def test_a_program_that_fails_is_not_measured() -> None:
    with pytest.raises(RuntimeError, match="ended with 3"):
        watched([sys.executable, "-c", "raise SystemExit(3)"])
