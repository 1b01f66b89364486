"""The difficulty filter: what is left out, why, and that nothing else of the pipeline learns of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from flows.plan import plan
from flows.recipe import load
from tasks import rollout as rollouts
from tasks.adopt import adopt
from tasks.collect import ProblemsConfig, collect, problems_of
from tasks.sift import DifficultyConfig, fates, sift
from tasks.stage import Session
from tests.tasks.test_resume import Folder

ASKED = ProblemsConfig(count=24, general_count=5, families={"choice": 0.5, "logic": 0.5})
CONFIG: dict[str, Any] = {"num_generations": 4, "max_completion_length": 24, "temperature": 1.0}


def test_bounds_are_outside_of_what_is_kept() -> None:
    rates = {"never": 0.0, "once": 0.25, "often": 0.75, "always": 1.0}
    assert fates(rates, 0.0, 1.0) == {"never": "too hard", "once": "", "often": "", "always": "too easy"}
    assert fates(rates, 0.25, 0.75) == {"never": "too hard", "once": "too hard", "often": "too easy",
                                        "always": "too easy"}  # fmt: skip
    assert fates(rates, 0.24, 0.76) == {"never": "too hard", "once": "", "often": "", "always": "too easy"}


def test_problems_that_are_never_solved_go_and_the_counts_are_shown(plain: Session) -> None:
    base, problems = adopt("base", Folder()), collect("problems", ASKED)
    made = sift("sifted_problems", base, problems, DifficultyConfig(**CONFIG))
    rates = dict(pl.read_parquet(made.folder / "rates.parquet").iter_rows())
    before, after = problems_of(problems), problems_of(made)
    reasoning = [each.id for each in before if each.verifier not in ("helpful", "harmless")]
    assert list(rates) == reasoning
    assert {rate * 4 for rate in rates.values()} <= {0, 1, 2, 3, 4}
    kept = [each for each in before if each.id not in rates or 0 < rates[each.id] < 1]
    assert after == kept
    assert 5 < len(after) < 29
    hard = sum(rate == 0 for rate in rates.values())
    summary = made.record()["summary"]
    assert summary == {"rows": len(kept), "asked": 24, "kept": len(kept) - 5, "too_hard": hard,
                       "too_easy": 24 - hard - (len(kept) - 5)}  # fmt: skip
    shown = dict(pl.read_parquet(made.folder / "waterfall.parquet").iter_rows())
    assert shown == {"asked": 24, "too hard": hard, "too easy": summary["too_easy"], "kept": len(kept) - 5}
    dropped = pl.read_parquet(made.folder / "dropped.parquet")
    assert dict(dropped.select("problem_id", "reason").iter_rows()) == {
        name: "too hard" if rate == 0 else "too easy" for name, rate in rates.items() if rate in (0, 1)
    }


def test_where_none_is_left_it_says_so(plain: Session) -> None:
    hard = collect("problems", ProblemsConfig(count=8, general_count=0, families={"logic": 1.0}))
    with pytest.raises(ValueError, match=r"^sifted_problems: 8 of 8 problems are too hard and 0 too easy, and no"):
        sift("sifted_problems", adopt("base", Folder()), hard, DifficultyConfig(**CONFIG, above=0.74))


def test_bounds_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="leave no share that num_generations = 4 samples can have"):
        DifficultyConfig(num_generations=4, above=0.5, below=0.75)
    assert DifficultyConfig(num_generations=4, above=0.5, below=0.76).below == 0.76


def test_only_what_learns_takes_the_sifted_problems(tmp_path: Path) -> None:
    without = {step.artifact.name: step for step in plan(load("tiny"), tmp_path)}
    with_it = {step.artifact.name: step for step in plan(load("tiny", ["difficulty.num_generations=4"]), tmp_path)}
    assert with_it.keys() - without.keys() == {"sifted_problems"}
    assert [each.name for each in with_it["sifted_problems"].parents["problems"]] == ["problems"]
    for name, step in with_it.items():
        given = {each.name for parents in step.parents.values() for each in parents}
        assert "heldout" not in given or "sifted_problems" not in given
        if step.artifact.stage in ("reinforce", "generate"):
            assert [each.name for each in step.parents["problems"]] == ["sifted_problems"], name
    for name in ("problems", "heldout", "base", "general", "base_evaluation", "student_base_evaluation"):
        assert with_it[name].artifact.key == without[name].artifact.key
    assert with_it["sifted_problems"].config["config"]["seed"] == 0
    seeded = {step.artifact.name: step for step in plan(load("tiny", ["difficulty={}", "seed=7"]), tmp_path)}
    assert seeded["sifted_problems"].config["config"]["seed"] == 7


def test_what_a_stopped_attempt_asked_is_not_asked_again(plain: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.sift.SHARD", 8)
    base, problems = adopt("base", Folder()), collect("problems", ASKED)
    asked: list[int] = []
    real = rollouts.rollout

    def counting(*args: Any, **kwargs: Any) -> Any:
        asked.append(len(args[1]))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(rollouts, "rollout", counting)
    with pytest.raises(KeyboardInterrupt):
        sift("sifted_problems", base, problems, DifficultyConfig(**CONFIG))
    made = sift("sifted_problems", base, problems, DifficultyConfig(**CONFIG))
    assert asked == [8, 8, 8, 8]
    assert made.record()["summary"]["asked"] == 24
