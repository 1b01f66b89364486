"""Problem sets: the miniature world's, and files of one's own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from data.problems import held_out
from data.prompts import BEGIN, USER, messages, parse
from tasks.collect import (
    GeneralRowsConfig,
    ProblemsConfig,
    collect,
    collect_general,
    digest_of,
    problems_of,
    rows_of,
)
from tasks.stage import Session

QUESTIONS = [{"question": f"What is {i} + {i}?", "gold": 2 * i} for i in range(60)]
COLUMNS = {"prompt": "question", "solution": "gold"}


def own(file: Path, **changes: Any) -> ProblemsConfig:
    settings = {"path": file, "digest": digest_of(file), "columns": COLUMNS, "general_count": 0}
    return ProblemsConfig(**{**settings, **changes})


@pytest.fixture(params=["jsonl", "parquet"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"mine.{request.param}"
    if request.param == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    else:
        pl.DataFrame(QUESTIONS).write_parquet(path)
    return path


def test_a_file_is_divided_by_the_hash_of_its_problems(plain: Session, file: Path) -> None:
    train, heldout = (
        problems_of(collect(split, own(file, split=split)))
        for split in ("train", "heldout")
    )  # fmt: skip
    assert sorted(each.prompt for each in train + heldout) == sorted(row["question"] for row in QUESTIONS)
    assert [each.prompt for each in heldout] == [q["question"] for q in QUESTIONS if held_out(str(q["question"]))]
    assert 0 < len(heldout) < 10
    assert {(each.verifier, each.language, each.family) for each in train} == {("math", "en", "mine")}
    assert all(each.solution == str(2 * int(each.prompt.split()[2])) for each in train)


def test_a_file_may_be_taken_whole_and_beside_general_prompts(plain: Session, file: Path) -> None:
    made = collect("heldout", own(file, split="heldout", divide=False, general_count=5))
    found = problems_of(made)
    assert len(found) == 65
    assert {each.family for each in found[60:]} <= {"helpful", "harmless"}
    assert made.record()["summary"]["rows"] == 65
    assert made.record()["summary"]["families"]["mine"] == 60


def test_its_bytes_and_not_its_place_are_its_identity(plain: Session, file: Path, tmp_path: Path) -> None:
    first = collect("problems", own(file))
    moved = tmp_path / "elsewhere" / file.name
    moved.parent.mkdir()
    moved.write_bytes(file.read_bytes())
    assert collect("problems", own(moved)).fingerprint == first.fingerprint
    pl.DataFrame(QUESTIONS[:50]).write_ndjson(moved.with_name("mine.jsonl"))
    assert collect("problems", own(moved.with_name("mine.jsonl"))).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "2 + 2?"}', "mine.jsonl line 3: 'gold' is missing"),
        ("two plus two", "mine.jsonl line 3: not JSON"),
        ('{"question": "2 + 2?", "gold": 4, "verifier": "magic"}', "mine.jsonl line 3: 'verifier' must be out of math"),
        ('{"question": "2 + 2?", "gold": "x", "verifier": "reasoning_gym:chess"}',
         "'verifier' names no family of reasoning_gym: 'chess'"),
    ],
)  # fmt: skip
def test_a_broken_row_is_named_by_its_line(plain: Session, tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join([json.dumps(QUESTIONS[1]), json.dumps(QUESTIONS[2]), line]) + "\n")
    with pytest.raises(ValueError, match=message):
        collect("problems", own(path))


def test_a_file_without_held_out_problems_says_so(plain: Session, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    kept = [row for row in QUESTIONS if not held_out(str(row["question"]))][:10]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    with pytest.raises(ValueError, match=r"none of its 10 problems falls in the heldout split \(1 in 20 is held out\)"):
        collect("heldout", own(path, split="heldout"))


def test_generated_problems_of_both_splits_share_no_key(plain: Session) -> None:
    config = ProblemsConfig(count=30, general_count=10)
    train = problems_of(collect("problems", config))
    heldout = problems_of(collect("heldout", config.model_copy(update={"split": "heldout"})))
    assert len(train) == len(heldout) == 40
    assert not {each.key for each in train} & {each.key for each in heldout}
    assert [each.verifier in ("helpful", "harmless") for each in train] == [False] * 30 + [True] * 10
    assert len({each.id for each in train + heldout}) == 80


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0, "general_count": 0}, "an empty problem set: count and general_count are both 0"),
        ({"families": {"chian": 1.0}}, "unknown families chian; allowed are chain, choice, code"),
        (
            {"families": {"reasoning_gym:chess": 1.0}},
            "unknown families reasoning_gym:chess; allowed are .*gym:<family>",
        ),
        ({"split": "test"}, "Input should be 'train' or 'heldout'"),
    ],
)
def test_settings_that_make_no_problems_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ProblemsConfig(**settings)


def test_some_general_rows_have_an_earlier_round(plain: Session) -> None:
    single, several = (
        rows_of(collect_general("general", GeneralRowsConfig(rows=400, two_rounds=share))) for share in (0.0, 0.1)
    )
    rounds = [[turn["role"] for turn in messages(row.prompt, row.completion)] for row in several]
    assert {len(messages(row.prompt, row.completion)) for row in single} == {2}
    assert {tuple(roles) for roles in rounds} == {("user", "assistant"), ("user", "assistant") * 2}
    assert 20 <= sum(len(roles) == 4 for roles in rounds) <= 60
    assert [row.completion for row in several] == [row.completion for row in single]
    pairs = zip(several, single, strict=True)
    assert all(one.prompt.endswith(two.prompt.removeprefix(BEGIN + USER)) for one, two in pairs)
    thinking = [parse(row.completion, "chat").thinking for row in several]
    assert 40 <= sum(not each for each in thinking) < 200


def test_general_rows_are_written_in_both_languages(plain: Session) -> None:
    rows = rows_of(collect_general("general", GeneralRowsConfig(rows=40)))
    assert [row.language for row in rows] == ["en", "zh"] * 20
    assert [row.id for row in rows[:2]] == ["general/000000", "general/000001"]
    assert {row.family for row in rows} == {"helpful", "harmless"}
    assert all(row.completion.startswith("<think> ") and "</think> " in row.completion for row in rows)
    assert {row.source for row in rows} == {"writers"}


def test_a_digest_covers_a_file_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    assert digest_of(tmp_path / "a") == hashlib.sha256(b"one").hexdigest()
    before = digest_of(tmp_path)
    (tmp_path / "b").write_text("two")
    both = digest_of(tmp_path)
    (tmp_path / "b").rename(tmp_path / "c")
    assert len({before, both, digest_of(tmp_path)}) == 3  # what a file is called counts
    with pytest.raises(ValueError, match=r"no such file or folder: .*/absent"):
        digest_of(tmp_path / "absent")


def test_rows_whose_gold_answer_fails_are_bounded_and_left_out(plain: Session, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    broken = {"question": "What is this?", "gold": r"\frac{"}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*QUESTIONS[:20], broken, *QUESTIONS[20:]]))
    with pytest.raises(ValueError, match=r"^mine\.jsonl line 21: .* 1 of 61 rows \(21\), more than max_unverified = 0"):
        collect("problems", own(path, divide=False))
    found = problems_of(collect("problems", own(path, divide=False, max_unverified=1)))
    assert [each.prompt for each in found] == [row["question"] for row in QUESTIONS]


def test_ones_own_words_stand_around_each_question_and_bear_identity(plain: Session, file: Path) -> None:
    bare = collect("problems", own(file))
    framed = collect("problems", own(file, system="Be brief.", template="Q: {prompt}"))
    for before, after in zip(problems_of(bare), problems_of(framed), strict=True):
        assert after.prompt == f"Be brief.\n\nQ: {before.prompt}"
        assert (after.key, after.id, after.solution) == (before.key, before.id, before.solution)
    assert bare.fingerprint != framed.fingerprint
    assert bare.fingerprint == collect("problems", own(file, system="", fixed={}, max_unverified=0)).fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": "no question"}, "a template must hold {prompt} once"),
        ({"columns": {"question": "prompt"}}, "the other way round"),
        ({"path": None, "columns": {}, "system": "x", "count": 3}, "system: only problems of one's own"),
        ({"max_unverified": -1}, "greater than or equal to 0"),
    ],
)
def test_settings_that_cannot_be_read_by_are_refused(file: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        own(file, **changes)
    assert message in str(error.value)
