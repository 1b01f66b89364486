"""A person's own trajectories become the table that sampling leaves."""

from __future__ import annotations

import json
from pathlib import Path

from data.lineage import read_json
from data.store import read_table
from tasks.rollout import SCHEMA
from tasks.stage import Session
from tasks.trajectories import TrajectoriesConfig, take

ROWS = [
    {"prompt": "1 + 1?", "completion": "<think> one and one </think> \\boxed{2}", "answer": "2"},
    {"prompt": "1 + 1?", "completion": "<think> one and one </think> \\boxed{3}", "answer": "2"},
    {"prompt": "二加二?", "completion": "<think> 二加二 four </think> 4", "answer": None},
    {"prompt": "1 + 1?", "completion": "no tags", "answer": "2"},
]


def made(folder: Path, **settings: object) -> Path:
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    config = TrajectoriesConfig(path=path, columns={"solution": "answer"}, **settings)  # type: ignore[arg-type]
    return take("samples", config).folder


def test_what_the_file_leaves_open_is_judged_and_measured(plain: Session, tmp_path: Path) -> None:
    folder = made(tmp_path)
    frame = read_table(folder / "trajectories.parquet")
    assert dict(frame.schema) == SCHEMA
    shown = frame.select("id", "problem_id", "language", "verdict", "reward", "well_formed", "tokens", "consistency")
    assert shown.rows() == [
        ("math/0000000/0", "math/0000000", "en", "correct", 1.0, True, 7, 1.0),
        ("math/0000000/1", "math/0000000", "en", "wrong", 0.0, True, 7, 1.0),
        ("math/0000001/0", "math/0000001", "zh", None, 0.0, True, 7, shown["consistency"][2]),
        ("math/0000000/2", "math/0000000", "en", "unparseable", 0.0, False, 2, None),
    ]
    assert 0 < shown["consistency"][2] < 1
    assert frame["thinking"].to_list() == ["one and one", "one and one", "二加二 four", None]
    assert read_json(folder / "record.json")["summary"] == {"rows": 4, "verified": 3, "malformed": 1, "problems": 2}


def test_where_the_file_lies_bears_no_identity_and_what_is_in_it_does(plain: Session, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    assert made(here, digest="a") == made(there, digest="a")
    assert made(here, digest="a") != made(here, digest="b")
    assert made(here, digest="a") != made(here, digest="a", family="sums")
