"""Rows of public sets, read by their maps, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from data.outside import MAPS, Response, column_map, responses
from data.prompts import ASSISTANT, END, USER, Parts

RIGHT = Parts("two", "2", True)
TAGGED = "<|begin_of_thought|>\n\ntwo\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n2\n\n<|end_of_solution|>"
CONVERSATION = {
    "system": "Think long.",
    "conversations": [{"from": "user", "value": "1 + 1?"}, {"from": "assistant", "value": TAGGED}],
}
ROWS: dict[str, dict[str, Any]] = {
    "own": {"prompt": "1 + 1?", "completion": "<think>two</think>2"},
    "sampled": {
        "id": "sum/7/2", "problem_id": "sum/7", "prompt": "1 + 1?", "completion": "<think>two</think>2",
        "solution": "2", "verifier": "math", "verdict": "unparseable", "finish": "stop", "tokens": 9,
        "family": "sum", "language": "en",
    },
    "open-r1": {
        "problem": "1 + 1?", "solution": "It is two.", "answer": "2", "problem_type": "Algebra", "uuid": "u",
        "generations": ["<think>\ntwo\n</think>\n\n2", "<think>\nthree, no"],
        "correctness_math_verify": [True, False], "is_reasoning_complete": [True, False],
    },
    "openthoughts": CONVERSATION,
    "bespoke-stratos": CONVERSATION,
    "openthoughts-metadata": {
        "problem": "1 + 1?", "deepseek_reasoning": "two", "deepseek_solution": "2", "ground_truth_solution": "2",
        "domain": "puzzle",
    },
    "s1k": {
        "question": "1 + 1?", "solution": "2", "cot_type": "math", "deepseek_thinking_trajectory": "two",
        "deepseek_attempt": "2", "deepseek_grade": "Yes",
    },
    "am": {
        "messages": [
            {"role": "user", "content": "1 + 1?", "info": {"reference_answer": "2"}},
            {"role": "assistant", "content": "<think>two</think>\n<answer>2</answer>", "info": None},
        ]
    },
    "limo": {"question": "1 + 1?", "solution": "two", "answer": "2"},
}  # fmt: skip
SAID = {  # family, solution, correct
    "own": (None, None, None),
    "sampled": ("sum", "2", False),
    "open-r1": (None, "2", True),
    "openthoughts": (None, None, None),
    "bespoke-stratos": (None, None, None),
    "openthoughts-metadata": ("puzzle", "2", None),
    "s1k": ("math", "2", True),
    "am": (None, "2", None),
    "limo": (None, "2", None),
}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pl.DataFrame(rows).write_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, name: str = "own", **columns: str) -> list[Response]:
    return list(responses(path, column_map(name, columns)))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("name", MAPS)
def test_public_sets_are_read_by_their_maps(tmp_path: Path, name: str, suffix: str) -> None:
    found = read(write(tmp_path / f"set{suffix}", [ROWS[name], ROWS[name]]), name)
    first = found[0]
    assert (first.prompt, first.parts, first.language, first.finished) == ("1 + 1?", RIGHT, "en", True)
    assert (first.family, first.solution, first.correct) == SAID[name]
    assert {each.row for each in found} == {0, 1}
    assert len(found) == (4 if name == "open-r1" else 2)


def test_of_several_responses_each_has_its_own_verdict(tmp_path: Path) -> None:
    first, second = read(write(tmp_path / "set.jsonl", [ROWS["open-r1"]]), "open-r1")
    assert (first.correct, first.finished) == (True, True)
    assert (second.correct, second.finished, second.parts) == (False, False, Parts(None, None, False))


def test_names_of_rows_and_problems_are_kept(tmp_path: Path) -> None:
    [found] = read(write(tmp_path / "set.jsonl", [ROWS["sampled"]]), "sampled")
    assert (found.id, found.problem, found.tokens, found.verifier) == ("sum/7/2", "sum/7", 9, "math")
    first, second = read(write(tmp_path / "set.jsonl", [ROWS["open-r1"]]), "open-r1", id="uuid")
    assert (first.id, second.id) == ("u/0", "u/1")


def test_turns_before_the_last_are_the_prompt(tmp_path: Path) -> None:
    turns = [("human", "hello"), ("gpt", "hi"), ("human", "1 + 1?"), ("gpt", "<think>two</think>2")]
    row = {"conversations": [{"from": role, "value": text} for role, text in turns]}
    [found] = read(write(tmp_path / "set.jsonl", [row]), "openthoughts")
    assert found.prompt == f"hello{ASSISTANT}hi{END}{USER}1 + 1?"
    assert found.parts == RIGHT


@pytest.mark.parametrize(
    ("completion", "parts"),
    [
        ("two</think>2", RIGHT),  # the prompt ended with the opening tag
        ("<think>two</think><answer>2</answer>", RIGHT),
        ("two 2", Parts(None, None, False)),
        ("<think>two</think>", Parts(None, None, False)),
        ("<think>a<think>b</think>2", Parts(None, None, False)),
    ],
)
def test_a_response_is_taken_apart_by_its_tags(tmp_path: Path, completion: str, parts: Parts) -> None:
    [found] = read(write(tmp_path / "set.jsonl", [{"prompt": "1 + 1?", "completion": completion}]))
    assert (found.text, found.parts) == (completion, parts)


def test_own_columns_lie_over_a_map(tmp_path: Path) -> None:
    row = ROWS["limo"] | {"subject": "sums", "n": 7, "lang": "zh", "good": "no"}
    path = write(tmp_path / "set.jsonl", [row])
    [found] = read(path, "limo", family="subject", tokens="n", language="lang", correct="good")
    assert (found.family, found.tokens, found.language, found.correct) == ("sums", 7, "zh", False)


def test_a_folder_is_read_file_by_file(tmp_path: Path) -> None:
    for shard in ("b", "a"):
        write(tmp_path / f"{shard}.parquet", [ROWS["own"] | {"prompt": shard}])
    assert [each.prompt for each in read(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("row", "name", "message"),
    [
        (ROWS["own"], "open-r1", "line 1: no column 'problem', named for prompt; it has prompt, completion"),
        (ROWS["own"] | {"prompt": " "}, "own", "line 1: prompt must be text that is not empty, got ' '"),
        (ROWS["own"] | {"completion": [None]}, "own", "line 1: completion must be text that is not empty, got None"),
        (ROWS["open-r1"] | {"correctness_math_verify": [True]}, "open-r1", "1 values for correct, and 2 responses"),
        (ROWS["s1k"] | {"deepseek_grade": "maybe"}, "s1k", "correct must be true, false, yes or no, got 'maybe'"),
        ({"messages": [{"role": "user", "content": "x"}]}, "am", "the turns must be a user's and an assistant's"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "am", "a turn of 'tool'; allowed are system, user"),
        (ROWS["own"] | {"prompt": "\ud800"}, "own", "line 1: prompt cannot be written as UTF-8"),
    ],
)
def test_a_broken_row_is_one_line_with_its_place(tmp_path: Path, row: dict[str, Any], name: str, message: str) -> None:
    path = write(tmp_path / "set.jsonl", [row])
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read(path, name)
    assert str(error.value).startswith("set.jsonl line 1: ")
    assert "\n" not in str(error.value)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "set.parquet", [ROWS["own"]])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"^set\.parquet after row 0: "):
        read(path)


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("nosuch", {}, "no map 'nosuch'; there are own, sampled, open-r1, "),
        ("own", {"typo": "x"}, "columns name id, problem, prompt, "),
    ],
)
def test_a_map_that_is_none_is_refused(name: str, columns: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        column_map(name, columns)
