"""Pairs by hand, what a reward model reads, and that it learns what can be told apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from data.lineage import Judge, Policy, Table, read_json
from data.prompts import ASSISTANT, BEGIN, USER
from data.records import Completion, Problem, Reward, Trajectory
from data.store import read_table, write_table
from model import checkpoint
from tasks.preference import (
    JudgeConfig,
    PairsConfig,
    label,
    labelled,
    load_judge,
    pairs_of,
    preferences,
    seen,
    train_judge,
)
from tasks.rollout import Speaker, as_frame
from tasks.stage import Session

SCHEMA = {"id": pl.String, "problem_id": pl.String, "prompt": pl.String, "answer": pl.String, "score": pl.Float64}


def scored(**groups: list[tuple[str | None, float]]) -> pl.DataFrame:
    """scored(problem=[(answer, score), ...], ...)"""
    rows = [
        (f"{problem}/{number}", problem, f"ask {problem}", answer, score)
        for problem, answers in groups.items()
        for number, (answer, score) in enumerate(answers)
    ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def found(frame: pl.DataFrame, **settings: Any) -> list[tuple[str, str]]:
    return list(pairs_of(frame, PairsConfig(**settings)).select("chosen", "rejected").iter_rows())


def test_pairs_need_the_margin() -> None:
    frame = scored(a=[("good", 0.9), ("fair", 0.7), ("poor", 0.5)])
    assert set(found(frame, margin=0.2)) == {("good", "fair"), ("good", "poor"), ("fair", "poor")}
    assert set(found(frame, margin=0.3)) == {("good", "poor")}
    assert found(frame, margin=0.5) == []


def test_pairs_are_of_one_prompt_and_of_different_answers() -> None:
    frame = scored(a=[("same", 0.9), ("same", 0.9), ("bad", 0.1)], b=[("other", 0.5), (None, 0.0)])
    assert sorted(found(frame)) == [("other", ""), ("same", "bad")]
    [row] = pairs_of(scored(a=[("bad", 0.1), ("good", 0.8)]), PairsConfig()).iter_rows(named=True)
    assert row == {"id": "a/1", "problem_id": "a", "prompt": "ask a", "chosen": "good", "rejected": "bad"}


def test_pairs_of_a_prompt_are_limited() -> None:
    frame = scored(a=[(f"answer {i}", i / 10) for i in range(10)])
    assert len(found(frame, margin=0.05, pairs_per_prompt=3)) == 3
    assert len(found(frame, margin=0.05, pairs_per_prompt=100)) == 45


def test_the_longer_answer_is_chosen_as_often_as_the_shorter() -> None:
    # On every prompt a long and a short answer beat the middling one: taken blindly, luck decides.
    groups = {f"p{i:02}": [("a long good answer", 0.9), ("good", 0.9), ("middling", 0.1)] for i in range(20)}
    balanced = found(scored(**groups), pairs_per_prompt=1)
    longer = [len(chosen) > len(rejected) for chosen, rejected in balanced]
    assert longer == [True, False] * 10
    blind = found(scored(**groups), pairs_per_prompt=1, balance_lengths=False)
    assert [len(chosen) > len(rejected) for chosen, rejected in blind] != longer


def test_a_reward_model_sees_the_summary_only_or_the_whole_response() -> None:
    asked = f"{BEGIN}{USER}who?{ASSISTANT}"
    assert seen("helpful", "who?", "let me think", "me.") == f"{asked}me."
    assert seen("harmless", "who?", "let me think", "me.") == f"{asked}<think> let me think </think> me."
    assert seen("helpful", "who?", None, None) == asked
    assert seen("harmless", "who?", None, None) == f"{asked}<think> </think>"


# Real answers to real prompts.


def answer(problem: Problem, number: int, summary: str, thinking: str = "") -> Trajectory:
    completion = Completion((1,), (0.0,), "", "stop")
    return Trajectory(f"{problem.id}/{number}", problem, completion, thinking, summary, None, Reward(0.0), None, 0)


@pytest.fixture
def general(problems: Callable[..., list[Problem]]) -> list[Problem]:
    return problems(40, {"helpful": 1.0, "harmless": 1.0})


def test_answers_are_labelled_by_the_rubric_and_split_by_prompt(general: list[Problem], plain: Session) -> None:
    rows = [answer(problem, number, text) for problem in general for number, text in enumerate(("take a tool.", "i"))]
    samples = Table("samples", "generate", "0" * 12, plain.runs)
    samples.folder.mkdir(parents=True)
    write_table(samples.folder / "trajectories.parquet", as_frame(rows))
    made = label("labels", samples, PairsConfig(heldout_share=0.3))
    points = read_table(made.folder / "points.parquet")
    harmless = [problem.id for problem in general if problem.verifier == "harmless"]
    assert points["problem_id"].to_list() == [name for name in harmless for _ in range(2)]
    expected = {row["id"]: row["safe"] for row in labelled(as_frame(rows)).iter_rows(named=True)}
    assert {row["id"]: row["safe"] for row in points.iter_rows(named=True)} == {
        each.id: expected[each.id] for each in rows if each.problem.verifier == "harmless"
    }
    assert 0 < made.record()["summary"]["unsafe"] < len(points)
    split = points.group_by("problem_id").agg(pl.col("heldout").n_unique())
    assert set(split["heldout"]) == {1}
    assert 0 < points["heldout"].sum() < len(points)


def separable(count: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Labels that hang on one sign: `=` is good and `+` is bad."""
    rows = range(count)
    pairs = pl.DataFrame(
        {"id": [f"{i}/0" for i in rows], "problem_id": [f"{i}" for i in rows],
         "prompt": [f"start with {i}" for i in rows], "chosen": [f"{i} = {i}." for i in rows],
         "rejected": [f"{i} + {i}." for i in rows], "heldout": [i % 4 == 0 for i in rows]}
    )  # fmt: skip
    points = pl.DataFrame(
        {"id": [f"{i}/0" for i in rows], "problem_id": [f"{i}" for i in rows], "prompt": ["start with 1" for _ in rows],
         "thinking": [f"{i} = {i}" if i % 2 else f"{i} + {i}" for i in rows], "answer": ["1." for _ in rows],
         "safe": [i % 2 == 1 for i in rows], "heldout": [i % 5 == 0 for i in rows]}
    )  # fmt: skip
    return pairs, points


@pytest.fixture
def parents(small: Callable[..., Speaker], plain: Session) -> tuple[Policy, Table]:
    policy, labels = (
        Policy("dev3", "finetune", "0" * 12, plain.runs),
        Table("labels", "label", "1" * 12, plain.runs),
    )
    speaker = small(num_nextn_predict_layers=1)
    for each in (policy, labels):
        each.folder.mkdir(parents=True)
    checkpoint.save(policy.checkpoint, speaker.model, speaker.tokenizer)
    for name, table in zip(("pairs", "points"), separable(60), strict=True):
        write_table(labels.folder / f"{name}.parquet", table)
    return policy, labels


@pytest.mark.parametrize("kind", ["helpful", "harmless"])
def test_a_reward_model_learns_a_separable_set(parents: tuple[Policy, Table], plain: Session, kind: str) -> None:
    config = JudgeConfig(kind=kind, num_train_epochs=8, batch_size=8, learning_rate=3e-3)
    judge = train_judge(kind, *parents, config)
    assert judge.record()["summary"]["accuracy"] == 1.0
    assert judge.record()["summary"]["examples"] == {"helpful": 45, "harmless": 48}[kind]
    scorer = load_judge(judge, "cpu")
    if kind == "helpful":
        good, bad = scorer([seen("helpful", "start with 99", None, text) for text in ("99 = 99.", "99 + 99.")])
    else:
        good, bad = scorer([seen("harmless", "start with 1", text, "1.") for text in ("99 = 99", "99 + 99")])
    assert 0 <= bad < 0.4 < 0.6 < good <= 1
    scale = read_json(judge.folder / "scale.json")
    assert scale["kind"] == kind
    assert scale["std"] > 0


def test_each_general_prompt_is_scored_by_the_model_of_its_set(
    parents: tuple[Policy, Table], general: list[Problem], plain: Session
) -> None:
    judges: list[Judge] = [
        train_judge(kind, *parents, JudgeConfig(kind=kind, num_train_epochs=2, batch_size=8, learning_rate=3e-3))
        for kind in ("helpful", "harmless")
    ]
    asked = [answer(problem, 0, "1 = 1.", "1 + 1") for problem in general[:10]]
    scores = preferences(judges, "cpu")(asked)
    scorers = {judge.name: load_judge(judge, "cpu") for judge in judges}
    for each, score in zip(asked, scores, strict=True):
        kind = each.problem.verifier
        assert kind in ("helpful", "harmless")
        [expected] = scorers[kind]([seen(kind, each.problem.prompt, "1 + 1", "1 = 1.")])
        assert score == pytest.approx(expected, abs=1e-5)


def test_no_labels_are_an_error(parents: tuple[Policy, Table], plain: Session) -> None:
    policy, labels = parents
    write_table(labels.folder / "pairs.parquet", separable(60)[0].with_columns(heldout=pl.lit(True)))
    with pytest.raises(ValueError, match="holds no labelled answers to train the helpful reward model on"):
        train_judge("helpful", policy, labels, JudgeConfig(kind="helpful"))


def test_a_policy_is_no_judge(parents: tuple[Policy, Table]) -> None:
    policy, _ = parents
    with pytest.raises(ValueError, match="has no scalar head"):
        load_judge(Judge(policy.name, policy.stage, policy.fingerprint, policy.runs), "cpu")
