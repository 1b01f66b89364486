"""Figures by hand, paired resampling, and an evaluation of a real small policy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
import pytest

from data.lineage import Policy, read_json
from data.records import Completion, Problem, Reward, Trajectory, Verdict
from data.store import read_table
from model import checkpoint
from tasks.collect import ProblemsConfig, collect
from tasks.evaluate import (
    EvaluationConfig,
    by_problem,
    checkpoints_of,
    evaluate,
    figure,
    figures,
    majority,
    paired_difference,
    resampled_means,
    trace_curve,
    wins,
)
from tasks.preference import labelled
from tasks.rollout import Speaker, as_frame
from tasks.stage import Session

CONFIG = EvaluationConfig(bootstrap=500, num_generations=4, general_generations=2)


@pytest.mark.parametrize(
    ("answers", "correct", "share"),
    [
        (["3", "3", "4"], [True, True, False], 1.0),
        (["3", "4", "4"], [True, False, False], 0.0),
        (["3", "4"], [True, False], 0.5),  # a tie of two
        (["3", "4", "5"], [True, False, False], 1 / 3),  # a tie of three
        (["1/2", "0.5", "3"], [True, True, False], 2 / 3),  # two spellings of the right answer
        ([None, None, "3"], [False, False, True], 1.0),  # what is not well formed has no vote
        ([None, None], [False, False], 0.0),
        ([], [], 0.0),
    ],
)
def test_majority(answers: Sequence[str | None], correct: Sequence[bool], share: float) -> None:
    assert majority(answers, correct) == pytest.approx(share)


def test_a_figure_is_a_mean_with_its_interval() -> None:
    found = figure([0.0, 1.0] * 50, CONFIG)
    assert found is not None
    assert found["value"] == 0.5
    # A mean of 100 fair coins has the standard deviation 0.05.
    assert found["low"] == pytest.approx(0.5 - 1.96 * 0.05, abs=0.02)
    assert found["high"] == pytest.approx(0.5 + 1.96 * 0.05, abs=0.02)
    assert figure([0.25] * 5, CONFIG) == {"value": 0.25, "low": 0.25, "high": 0.25}
    assert figure([], CONFIG) is None


def test_equal_seeds_resample_equally_so_that_differences_pair() -> None:
    generator = np.random.default_rng(1)
    ours, theirs = generator.random(40), generator.random(40)
    together = resampled_means(ours, CONFIG) - resampled_means(theirs, CONFIG)
    np.testing.assert_allclose(together, resampled_means(ours - theirs, CONFIG))
    other = CONFIG.model_copy(update={"seed": 1})
    assert not np.array_equal(resampled_means(ours, CONFIG), resampled_means(ours, other))


def test_a_paired_difference_by_hand() -> None:
    # The policies differ by 0.25 on every problem, however much the problems differ.
    theirs = [0.0, 0.25, 0.5, 0.75]
    better = paired_difference([value + 0.25 for value in theirs], theirs, CONFIG)
    assert better == {"value": 0.25, "low": 0.25, "high": 0.25}
    mixed = paired_difference([1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0], CONFIG)
    assert mixed["value"] == 0
    assert mixed["low"] < 0 < mixed["high"]


def answers(problem: Problem, verdicts: Sequence[tuple[str, str | None]], lengths: Sequence[int]) -> list[Trajectory]:
    return [
        Trajectory(
            f"{problem.id}/{number}", problem, Completion(tuple(range(length)), (0.0,) * length, "", "stop"),
            None if answer is None else "so", answer, Verdict(status, answer), Reward(0.0),  # type: ignore[arg-type]
            None if answer is None else 0.5, number,
        )
        for number, ((status, answer), length) in enumerate(zip(verdicts, lengths, strict=True))
    ]  # fmt: skip


def test_scores_by_problem_by_hand() -> None:
    easy = Problem("chain/1", "k1", "chain", "en", "1 + 1", "2", "math")
    hard = Problem("order/2", "k2", "order", "zh", "?", "B", "choice")
    rows = answers(easy, [("correct", "2"), ("correct", "2"), ("wrong", "3"), ("unparseable", None)], [4, 6, 8, 2])
    rows += answers(hard, [("wrong", "C"), ("correct", "B"), ("timeout", "D"), ("wrong", "C")], [1, 1, 1, 1])
    first, second = by_problem(as_frame(rows)).iter_rows(named=True)
    assert first == {
        "problem_id": "chain/1", "family": "chain", "language": "en", "pass@1": 0.5, "format": 0.75,
        "mean_length": 5.0, "reflection_per_response": 1.5, "language_consistency": 0.5, "cons": 1.0,
    }  # fmt: skip
    assert (second["pass@1"], second["format"], second["cons"]) == (0.25, 1.0, 0.0)
    report = figures(by_problem(as_frame(rows)), labelled(as_frame([])), CONFIG)
    assert report["pass@1"]["value"] == 0.375
    assert report["cons@4"]["value"] == 0.5
    assert report["mean_length"]["value"] == 3.0
    assert {name: part["value"] for name, part in report["by_family"].items()} == {"chain": 0.5, "order": 0.25}
    assert {name: part["value"] for name, part in report["by_language"].items()} == {"en": 0.5, "zh": 0.25}
    assert report["harmless_rate"] is None


def test_the_harmless_rate_weighs_prompts_alike() -> None:
    replies = pl.DataFrame(
        {"verifier": ["harmless"] * 3 + ["helpful"], "problem_id": ["a", "a", "b", "c"],
         "safe": [True, False, True, False]}
    )  # fmt: skip
    report = figures(by_problem(as_frame([])), replies, CONFIG)
    assert report["harmless_rate"]["value"] == (0.5 + 1.0) / 2
    assert report["pass@1"] is None


def test_wins_by_hand() -> None:
    def frame(scores: dict[str, list[float]], verifier: str = "helpful") -> pl.DataFrame:
        rows = [(verifier, problem, score) for problem, each in scores.items() for score in each]
        return pl.DataFrame(rows, schema=["verifier", "problem_id", "score"], orient="row")

    ours, theirs = frame({"b": [0.9, 0.2], "a": [0.5]}), frame({"a": [0.5, 0.1], "b": [0.5, 0.2]})
    # a: a tie and a win; b: 0.9 wins twice, 0.2 loses once and ties once
    assert wins(ours, theirs) == {"a": 0.75, "b": (2 + 0.5) / 4}
    assert wins(theirs, ours) == {"a": 0.25, "b": 1 - 2.5 / 4}
    assert wins(ours, ours) == {"a": 0.5, "b": 0.5}
    assert wins(frame({"a": [1.0]}, "harmless"), theirs) == {}


@pytest.fixture
def policy(small: Callable[..., Speaker], plain: Session) -> Policy:
    made = Policy("base", "adopt", "0" * 12, plain.runs)
    made.folder.mkdir(parents=True)
    speaker = small()
    checkpoint.save(made.checkpoint, speaker.model, speaker.tokenizer)
    return made


def test_an_evaluation_asks_everything_and_repeats(policy: Policy, plain: Session) -> None:
    config = CONFIG.model_copy(update={"max_completion_length": 6})
    problems = collect("heldout", ProblemsConfig(split="heldout", count=5, general_count=4))
    report = evaluate("evaluation", policy, problems, "chat", config)
    frame = read_table(report.folder / "trajectories.parquet")
    assert len(frame) == 5 * 4
    assert len(read_table(report.folder / "general.parquet")) == 4 * 2
    assert len(read_table(report.folder / "by_problem.parquet")) == 5
    found = read_json(report.folder / "report.json")
    assert found["pass@1"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["mean_length"]["value"] == pytest.approx(frame["tokens"].mean())
    files = report.record()["files"]
    shutil.rmtree(report.folder)
    assert evaluate("evaluation", policy, problems, "chat", config).record()["files"] == files


def test_a_curve_has_a_row_for_each_checkpoint(policy: Policy, small: Callable[..., Speaker], plain: Session) -> None:
    trained = Policy("zero", "reinforce", "1" * 12, plain.runs)
    for name in ("checkpoints/step-000002", "checkpoints/step-000010", "policy"):
        (trained.folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(policy.checkpoint, trained.folder / name)
    assert [step for step, _ in checkpoints_of(trained)] == [2, 10]
    problems = collect("heldout", ProblemsConfig(split="heldout", count=2, general_count=0))
    config = CONFIG.model_copy(update={"max_completion_length": 4})
    curve = read_table(trace_curve("curve", trained, problems, "chat", config).folder / "curve.parquet")
    assert curve["step"].to_list() == [2, 10]
    assert curve["mean_length/value"].n_unique() == 1  # one and the same policy, asked with the same seeds
