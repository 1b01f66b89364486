"""Builds of fine-tuning sets from trajectories and general rows written by hand."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import polars as pl
import pytest

from data import filters
from data.lineage import Table
from data.prompts import render
from data.records import Completion, Problem, Reward, Row, Trajectory, Verdict
from data.store import read_table, write_table
from data.world.corpus import worked
from data.world.families import FAMILIES
from tasks.collect import as_frame as problems_frame
from tasks.collect import rows_frame, rows_of
from tasks.curate import CurateConfig, curate
from tasks.rollout import as_frame
from tasks.stage import Session

RIGHT = CurateConfig(filters=[filters.NotCorrect()], general_share=0.25)


def thinking(language: str, seed: int) -> str:
    family = FAMILIES["chain"]
    return worked(family, family.draw(Random(seed)), language, Random(seed)).thinking  # type: ignore[arg-type]


def trajectories(problems: list[Problem], wrong: int = 0, language: str | None = None) -> list[Trajectory]:
    """One answer a problem, the first `wrong` of them wrong; thinking in `language`, the question's when None."""
    return [
        Trajectory(
            f"{problem.id}/0", problem, Completion((1, 2), (0.0, 0.0), "", "stop"),
            thinking(language or problem.language, number), problem.solution,
            Verdict("wrong" if number < wrong else "correct", problem.solution), Reward(1.0), 1.0, 0,
        )
        for number, problem in enumerate(problems)
    ]  # fmt: skip


@pytest.fixture
def build(plain: Session, problems: Callable[..., list[Problem]]) -> Callable[..., Table]:
    """build(trajectories, config, general=100): a build over tables that hold them."""

    def table(name: str, file: str, frame: pl.DataFrame, runs: Any = plain.runs) -> Table:
        made = Table(name, name, "0" * 12, runs)
        made.folder.mkdir(parents=True)
        write_table(made.folder / f"{file}.parquet", frame)
        return made

    def make(rows: list[Trajectory], config: CurateConfig, general: int = 100) -> Table:
        written = [Row(f"general/{i:06}", "helpful", "en", f"hi {i}", "<think> </think> hi", "writers")
                   for i in range(general)]  # fmt: skip
        heldout = problems(3, {"logic": 1.0}, seed=9)
        return curate(
            "rows",
            table("samples", "trajectories", as_frame(rows)),
            table("general", "rows", rows_frame(written)),
            table("heldout", "problems", problems_frame(heldout)),
            config,
        )

    return make


def test_rows_are_joined_in_the_declared_proportion(
    build: Callable[..., Table], problems: Callable[..., list[Problem]]
) -> None:
    made = build(trajectories(problems(40), wrong=10), RIGHT)
    rows = rows_of(made)
    sources = [row.source for row in rows]
    assert (sources.count("trajectory"), sources.count("writers")) == (30, 10)
    assert sources != sorted(sources)
    assert sources != sorted(sources, reverse=True)
    assert made.record()["summary"] == {"trajectories": 40, "kept": 30, "dropped": 10, "rows": 40, "general": 10,
                                        "broken": 0}  # fmt: skip
    assert {row.id for row in rows if row.source == "writers"} == {f"general/{i:06}" for i in range(10)}
    waterfall = read_table(made.folder / "waterfall.parquet")
    assert waterfall.rows() == [("in", 40), ("verdict", 10), ("kept", 30)]


def test_a_row_is_what_a_model_learns_of_its_trajectory(
    build: Callable[..., Table], problems: Callable[..., list[Problem]]
) -> None:
    [each] = trajectories(problems(1))
    [row] = rows_of(build([each], CurateConfig(filters=[], general_share=0)))
    assert row == Row(
        each.id, "chain", each.problem.language, render(each.problem.prompt, "chat"),
        f"<think> {each.thinking} </think> {each.answer}", "trajectory",
    )  # fmt: skip


def test_what_is_over_the_quota_is_dropped_with_its_reason(
    build: Callable[..., Table], problems: Callable[..., list[Problem]]
) -> None:
    made = build(trajectories(problems(40), wrong=10), RIGHT.model_copy(update={"max_rows": 12}))
    assert made.record()["summary"] == {
        "trajectories": 40,
        "kept": 12,
        "dropped": 28,
        "rows": 16,
        "general": 4,
        "broken": 0,
    }
    dropped = read_table(made.folder / "dropped.parquet")
    assert dropped.group_by("reason", "detail").len().sort("len").rows() == [
        ("verdict", "wrong", 10),
        ("over_quota", "12", 18),
    ]
    kept = read_table(made.folder / "kept.parquet")
    assert not set(kept["id"]) & set(dropped["id"])
    numbers = [int(name.split("/")[1]) for name in kept["id"]]
    assert max(numbers) - min(numbers) > 12  # a draw, not the first ones


def test_a_build_that_keeps_nothing_says_why(
    build: Callable[..., Table], problems: Callable[..., list[Problem]]
) -> None:
    with pytest.raises(ValueError, match=r"leave no row of 5; most were dropped as 'verdict' \(5\)"):
        build(trajectories(problems(5), wrong=5), RIGHT)


def test_too_few_general_rows_are_an_error(build: Callable[..., Table], problems: Callable[..., list[Problem]]) -> None:
    with pytest.raises(
        ValueError, match=r"general_share = 0.25 of 30 reasoning rows asks for 10 general rows, and there are 9: raise"
    ):
        build(trajectories(problems(30)), RIGHT, general=9)


@pytest.mark.parametrize("written", ["en", "zh", "mixed"])
def test_rewritten_thinking_is_in_the_questions_language(
    build: Callable[..., Table], problems: Callable[..., list[Problem]], written: str
) -> None:
    asked = problems(8)
    rows = trajectories(asked, language=written)
    config = CurateConfig(rewrite=True, filters=[filters.MixedLanguage(min_consistency=1.0)], general_share=0)
    made = build(rows, config)
    kept = {row["problem_id"]: row for row in read_table(made.folder / "kept.parquet").iter_rows(named=True)}
    assert len(kept) == 8
    for number, problem in enumerate(asked):
        row = kept[problem.id]
        assert row["thinking"] == thinking(problem.language, number)
        assert row["consistency"] == 1.0
        stated = {"en": "the answer is", "zh": "答案是"}[problem.language]
        assert row["answer"] == f"{stated} \\boxed{{ {problem.solution} }}."


def test_what_cannot_be_rewritten_is_left_to_the_filters(
    build: Callable[..., Table], problems: Callable[..., list[Problem]]
) -> None:
    rows = trajectories(problems(2))
    strange = Trajectory(
        "chain/9/0", rows[0].problem, rows[0].completion, "let us compute: 1 + 1 = 2", "2", rows[0].verdict,
        rows[0].reward, 0.25, 0,
    )  # fmt: skip
    config = CurateConfig(rewrite=True, filters=[filters.CodeBlock()], general_share=0)
    kept = read_table(build([*rows, strange], config).folder / "kept.parquet")
    [row] = kept.filter(pl.col("id") == "chain/9/0").iter_rows(named=True)
    assert (row["thinking"], row["answer"]) == ("let us compute: 1 + 1 = 2", "2")


def test_rows_that_overlap_with_evaluation_problems_are_dropped(
    build: Callable[..., Table], problems: Callable[..., list[Problem]]
) -> None:
    leaked = problems(3, {"logic": 1.0}, seed=9)  # those of the build's evaluation set
    config = CurateConfig(filters=[filters.Contaminated()], general_share=0)
    made = build(trajectories([*problems(4), *leaked]), config)
    assert set(read_table(made.folder / "dropped.parquet")["problem_id"]) == {problem.id for problem in leaked}
    assert {row.family for row in rows_of(made)} == {"chain"}


def test_graded_thinking_keeps_its_words_and_gets_a_summary(build: Callable[..., Table]) -> None:
    legs = Problem("leg_counting_1/0", "legs", "leg_counting_1", "en", "how many legs?", "70", "math")
    told = "first ants 9 * 6 = 54. then spiders 2 * 8 = 16. then 54 + 16 = 70."
    each = Trajectory(
        "leg_counting_1/0/0", legs, Completion((1, 2), (0.0, 0.0), "", "stop"), told, "70",
        Verdict("correct", "70"), Reward(1.0), 1.0, 0,
    )  # fmt: skip
    config = CurateConfig(filters=[filters.NotCorrect()], general_share=0, rewrite=True)
    [row] = rows_of(build([each], config))
    assert row.completion == f"<think> {told} </think> the answer is \\boxed{{ 70 }}."
