"""`r1 sql` as people call it, and the questions that its help shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from data.views import VIEWS, connect, rows
from flows.queries import QUERIES, help_text
from tests.flows.conftest import Make

ROOT = Path(__file__).parents[2]


def r1(*words: str, runs: Path, asked: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows", *words, "--runs", str(runs)],
        input=asked, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"COLUMNS": "100"}, timeout=120,
    )  # fmt: skip


@pytest.fixture
def world(runs: Path, made: Make) -> Path:
    """Two steps of a training, a sampling, and a build of what it gave."""
    sampled = {
        "id": ["p/0", "p/1", "q/0", "g/0"],
        "problem_id": ["p", "p", "q", "g"],
        "prompt": ["1 + 1?", "1 + 1?", "2 + 2?", "hello"],
        "family": ["sum", "sum", "sum", "helpful"],
        "language": ["en", "en", "zh", "en"],
        "verdict": ["correct", "wrong", "wrong", None],
        "tokens": [4, 8, 6, 2],
        "step": [1, 1, 2, 2],
        "reward": [2.0, 1.0, 1.0, 0.0],
        "reward_accuracy": [1.0, 0.0, 0.0, None],
        "reward_format": [1.0, 1.0, 1.0, 0.0],
    }
    frame = pl.DataFrame(sampled)
    made("reinforce", "zero", {"trajectories": frame})
    samples = made("generate", "samples", {"trajectories": frame})
    dropped = frame[1:].with_columns(reason=pl.Series(["verdict", "verdict", "malformed"]))
    made("curate", "the rows", {"kept": frame[:1], "dropped": dropped}, {"trajectories": samples})
    return runs


def test_the_questions_of_the_help_are_answered(world: Path) -> None:
    assert len(QUERIES) == 5
    answers = [[tuple(row.values()) for row in rows(connect(world), query.sql)] for query in QUERIES]
    last, dropped, right, parts, unsolved = answers
    assert {row[:3] for row in last} == {
        ("zero", "reinforce", 1.5), ("samples", "generate", 1.5), ("the rows", "curate", 1.5),
    }  # fmt: skip
    assert dropped == [("the rows", "verdict", 2, 66.7), ("the rows", "malformed", 1, 33.3)]
    assert right == [
        ("samples", "sum", "en", 0.5, 6.0), ("samples", "sum", "zh", 0.0, 6.0),
        ("zero", "sum", "en", 0.5, 6.0), ("zero", "sum", "zh", 0.0, 6.0),
    ]  # fmt: skip
    assert parts == [(1, "accuracy", 0.5), (1, "format", 1.0), (2, "accuracy", 0.0), (2, "format", 0.5)]
    assert unsolved == [("q", 2, "2 + 2?")]


def test_the_help_names_every_view_and_its_questions() -> None:
    told = help_text()
    assert all(view in told for view in VIEWS)
    assert all(query.sql in told for query in QUERIES)


def test_an_answer_is_a_table_or_json_lines(world: Path) -> None:
    asked = "SELECT id, tokens, reward FROM trajectories JOIN runs USING (run) WHERE name = 'zero' ORDER BY id LIMIT 2"
    lines = r1("sql", asked, "--jsonl", runs=world).stdout.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": "g/0", "tokens": 2, "reward": 0.0},
        {"id": "p/0", "tokens": 4, "reward": 2.0},
    ]
    table = r1("sql", asked, runs=world).stdout
    assert all(word in table for word in ("tokens", "g/0", "p/0"))


def test_the_prompt_goes_on_after_an_error(world: Path) -> None:
    done = r1("sql", runs=world, asked="SELEC 1;\nSELECT count(*) AS found\nFROM kept;\nDROP VIEW kept;\n")
    assert done.returncode == 0
    assert "found" in done.stdout
    first, second = done.stderr.splitlines()
    assert first == 'r1: Parser Error: syntax error at or near "SELEC"'
    assert second == "r1: only one SELECT at a time can be asked; nothing here is written to"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("SELECT nosuch FROM kept", 'Referenced column "nosuch" not found'),
        ("SELECT * FROM problems", "no finished stage has problems yet"),
        ("COPY (SELECT 1) TO 'x.csv'", "only one SELECT at a time"),
        ("SELECT * FROM 'pyproject.toml'", "r1: "),
    ],
)
def test_a_question_that_cannot_be_asked_is_one_line_and_exit_code_2(world: Path, asked: str, message: str) -> None:
    done = r1("sql", asked, runs=world)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout
