"""`r1 score`: one line a row, in order, as people get it from a file."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data.language import consistency
from tasks.score import WINDOW, as_line, score

ADD = [{"input": "1 2", "output": "3"}, {"input": "5 6\n", "output": "11\n"}]
SUM = "```python\na, b = map(int, input().split())\nprint(a + b)\n```"
THINKING = "two plus two is four"


def row(completion: str, solution: Any = "4", prompt: str = "2 + 2?", **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "solution": solution, "completion": completion, **more}


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in rows))
    return path


def scored(folder: Path, *rows: Any, **options: Any) -> list[dict[str, Any]]:
    return list(score(write(folder, *rows), **options))


def test_a_row_has_its_verdict_and_every_part_of_its_reward(tmp_path: Path) -> None:
    [line] = scored(tmp_path, row(f"<think>{THINKING} 我们看看</think> <answer>4</answer>"))
    found = consistency(f"{THINKING} 我们看看", "en")
    assert line == {
        "verdict": "correct",
        "reason": "same text",
        "answer": "4",
        "reward": {"accuracy": 1.0, "format": 1.0, "language": found.ratio, "total": 2.0 + (found.ratio or 0)},
        "language_consistency": found.ratio,
        "switches": found.switches,
        "longest_foreign_span": found.longest_foreign_span,
    }
    assert found.ratio is not None
    assert 0.5 < found.ratio < 1


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (row(rf"<think>{THINKING}</think> so \boxed{{4}}."), "correct"),
        (row(rf"{THINKING}</think> so \boxed{{4}}.", prompt="2 + 2?<think>\n"), "correct"),
        (row(rf"{THINKING}</think> so \boxed{{4}}."), "unparseable"),
        (row(f"<think>{THINKING}</think> 4", prompt="2 + 2? End with <answer>...</answer>"), "unparseable"),
        (row(f"<think>{THINKING}</think> 5", solution=4), "wrong"),
        (row(f"<think>{THINKING}</think> B", "B", verifier="choice"), "correct"),
        (row("<think>看</think> 选 green", "B", verifier="choice", options=["red", "green"]), "correct"),
        (row(f"<think>a</think> {SUM}", ADD, verifier="code"), "correct"),
        (row("<think>a</think> ```py\nprint(3)\n```", ADD, verifier="code"), "wrong"),
        (row("<think>a</think> (1+2)*5", {"numbers": [1, 2, 5], "target": 15}, verifier="expression"), "correct"),
        (row("<think>a</think> 5*(1+2)", "(1+2)*5", verifier="reasoning_gym:countdown",
             metadata={"numbers": [1, 2, 5], "target": 15}), "correct"),
        (row("<think>a</think> 5*3", "(1+2)*5", verifier="reasoning_gym:countdown",
             metadata={"numbers": [1, 2, 5], "target": 15}), "wrong"),
        (row("", "4"), "unparseable"),
    ],
)  # fmt: skip
def test_every_verifier_and_form(tmp_path: Path, given: dict[str, Any], verdict: str) -> None:
    [line] = scored(tmp_path, given)
    assert line["verdict"] == verdict
    assert line["reward"]["accuracy"] == float(verdict == "correct")


def test_a_form_may_be_asked_for(tmp_path: Path) -> None:
    given = row(f"<think>{THINKING}</think> <answer>4</answer>")
    assert [scored(tmp_path, given, form=form)[0]["verdict"] for form in ("zero", "chat")] == ["correct", "unparseable"]


def test_a_thinking_without_words_earns_nothing_for_its_language(tmp_path: Path) -> None:
    [line] = scored(tmp_path, row("<think>2 + 2 = 4</think> 4"))
    assert line["language_consistency"] is None
    assert line["reward"] == {"accuracy": 1.0, "format": 1.0, "language": 0.0, "total": 2.0}


def test_an_infra_error_earns_nothing_that_could_be_taken_for_a_judgement(tmp_path: Path) -> None:
    [line] = scored(tmp_path, row("<think>a</think> x", r"\frac{"))
    assert line["verdict"] == "infra_error"
    assert (line["reward"]["accuracy"], line["reward"]["total"], line["reward"]["format"]) == (None, None, 1.0)


def test_rows_keep_their_order_over_many_windows(tmp_path: Path) -> None:
    rows = [row(f"<think>a</think> {number}", number % 5) for number in range(2 * WINDOW + 7)]
    hard = [row(f"<think>a</think> {number}+x", f"x+{number % 2}") for number in range(6)]
    lines = scored(tmp_path, *hard, *rows)
    assert [line["verdict"] == "correct" for line in lines[:6]] == [n < 2 for n in range(6)]
    assert [line["answer"] for line in lines[6:]] == [str(number) for number in range(2 * WINDOW + 7)]
    assert sum(line["verdict"] == "correct" for line in lines[6:]) == 5


def test_a_lone_surrogate_is_written_as_json_can(tmp_path: Path) -> None:
    [line] = scored(tmp_path, row("<think>好</think> \ud800"))
    assert json.loads(as_line(line))["answer"] == "\ud800"
    assert "好" in as_line({"thinking": "好"})


def run(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows", "score", str(path), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ, timeout=120)


def test_the_command_prints_lines_and_progress_apart(tmp_path: Path) -> None:
    rows = [row(f"<think>看 {THINKING}</think> {answer}") for answer in (4, 5)]
    done = run(write(tmp_path, *rows))
    assert done.returncode == 0
    assert [json.loads(line) for line in done.stdout.splitlines()] == scored(tmp_path, *rows)
    assert done.stderr == "2 rows: 1 correct, 1 wrong\n"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"prompt": "x", "solution": "4"}, "'completion' is missing"),
        (row("x") | {"completion": 4}, "'completion' must be text, got 4"),
        (row("x", verifier="helpful"), "'solution': a rubric has"),
        (row("x", "2 3", verifier="choice"), "'solution' of a choice must be one capital letter, got '2 3'"),
        (row("<think>a</think> x", verifier="judge"), "the verifier 'judge' needs a judge, and none is given"),
        (row("x", language="english"), "'language' must be a language code such as en, zh, fr, got 'english'"),
        ("{oops", "not JSON"),
    ],
)
def test_a_broken_row_is_one_line_with_its_number(tmp_path: Path, broken: Any, message: str) -> None:
    good = row("<think>a</think> 4")
    lines = []
    with pytest.raises(ValueError, match=r"^rows\.jsonl line 3: ") as error:
        lines.extend(score(write(tmp_path, good, good, broken, good)))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_command_ends_with_two_for_a_broken_row_or_option(tmp_path: Path) -> None:
    path = write(tmp_path, row("<think>a</think> 4"), row("x", "", verifier="math"))
    done = run(path)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == "r1: rows.jsonl line 2: 'solution' must be text that is not empty, got ''\n"
    done = run(path, "--template", "plain")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "r1: --template must be out of auto, zero, chat, got 'plain'\n"
