"""Gold answers against their own verifiers, and how many may fail."""

from __future__ import annotations

import json

import pytest

from data.golds import check_bound, gold_answer, unverified
from data.problems import generate
from data.records import Problem


def problem(solution: str, verifier: str = "math", number: int = 0) -> Problem:
    return Problem(f"own/{number}", "?", "own", "en", "?", solution, verifier)


@pytest.mark.parametrize(
    ("solution", "verifier", "answer"),
    [
        ("42", "math", "42"),
        (r"\frac{1}{2}", "math", r"\frac{1}{2}"),
        ("x^2 + 1", "math", "x^2 + 1"),
        ("B", "choice", "B"),
        (json.dumps({"answer": "C", "options": {"A": "1", "C": "2"}}), "choice", "C"),
        (json.dumps({"answer": "7", "metadata": {}}), "reasoning_gym:chain_sum", "7"),
        (json.dumps({"answer": None, "metadata": {}}), "reasoning_gym:countdown", None),
        (json.dumps([{"input": "1", "output": "1"}]), "code", None),
        (json.dumps({"numbers": [1, 2], "target": 3}), "expression", None),
    ],
)
def test_a_gold_answer_passes_its_own_verifier(solution: str, verifier: str, answer: str | None) -> None:
    asked = problem(solution, verifier)
    assert gold_answer(asked) == answer
    assert unverified([("line 1", asked)]) == []


def test_every_gold_answer_of_the_world_passes() -> None:
    families = {"chain": 0.3, "order": 0.2, "choice": 0.2, "logic": 0.2, "reasoning_gym:chain_sum": 0.1}
    made = [("generated", each) for each in generate(families, 300, 5, "train")]
    assert sum(gold_answer(each) is not None for _, each in made) == 300
    assert unverified(made) == []


BROKEN = [
    ("mine.csv line 2", problem("4", number=0)),
    ("mine.csv line 3", problem(r"\frac{", number=1)),
    ("mine.csv line 4", problem("5", number=2)),
    ("mine.csv line 5", problem("She sells 24. #### 24", number=3)),
]


def test_those_that_fail_are_named_by_line_and_counted() -> None:
    found = unverified(BROKEN)
    assert [each.where for each in found] == ["mine.csv line 3", "mine.csv line 5"]
    with pytest.raises(
        ValueError, match=r"^mine\.csv line 3: the gold answer '\\\\frac\{' does not pass its own"
    ) as error:
        check_bound(found, len(BROKEN), 1)
    assert str(error.value).endswith("so it is with 2 of 4 rows (3, 5), more than max_unverified = 1")
    check_bound(found, len(BROKEN), 2)
    with pytest.raises(ValueError, match=r"7 of 9 rows \(3, 3, 3, 3, 3, \.\.\.\)"):
        check_bound(found[:1] * 7, 9, 6)
