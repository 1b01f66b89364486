"""The watch over reinforcement learning: what is a collapse, what only looks like one, and what is done about it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import pytest

from data.lineage import METRICS, RESUME, Artifact
from tasks.adopt import adopt
from tasks.collect import ProblemsConfig, collect
from tasks.grpo import GRPOConfig, reinforce
from tasks.guard import Collapse, collapse
from tasks.stage import Metrics, Session, Step, session
from tasks.tracking import MlflowTracker, store_uri
from tests.tasks.test_resume import Folder

Rows = list[dict[str, float]]
HEALTHY = Path(__file__).parent / "micro_rollouts.json"
"""What the guard reads of every rollout of the miniature's RL stages, as `r1 run micro` logged it."""


def rows(count: int, **lines: Callable[[float], float]) -> Rows:
    """So many rollouts; each metric is a function of the share of them that is over, from 0 to 1."""
    names = {"length": "completions/mean_length", "format": "rewards/format/mean",
             "accuracy": "rewards/accuracy/mean", "idle": "frac_reward_zero_std"}  # fmt: skip
    return [
        {"step": step + 1, **{names[name]: line(step / (count - 1)) for name, line in lines.items()}}
        for step in range(count)
    ]


def settling(before: float, after: float) -> Callable[[float], float]:
    """A straight line from one value to another, which begins after 0.15 of the rollouts and has arrived at 0.5."""
    return lambda share: before + (after - before) * min(max(share - 0.15, 0.0) / 0.35, 1.0)


COLLAPSE: dict[str, Callable[[float], float]] = {
    "length": settling(65, 14),
    "format": settling(0.0, 0.999),
    "accuracy": settling(0.0, 0.06),
    "idle": settling(0.0, 0.4),
}
"""A small real base in 37 steps of pure GRPO: right answers count once they are well formed."""


def first(rollouts: Sequence[Mapping[str, float]], **weights: float) -> Collapse | None:
    """The first collapse that is found while rollouts come one by one."""
    seen = (collapse(rollouts[:end], **weights) for end in range(1, len(rollouts) + 1))
    return next((found for found in seen if found), None)


def test_a_collapse_is_found_before_it_is_over_and_described() -> None:
    found = first(rows(37, **COLLAPSE))
    assert found is not None
    assert 8 <= found.step <= 20
    assert found.now.length <= 0.6 * found.before.length
    told = str(found)
    assert told.startswith(f"the policy collapses at step {found.step}: completions went from ")
    assert "smaller format_weight" in told
    assert "\n" not in told


def test_it_is_one_too_where_accuracy_was_told_from_bare_answers() -> None:
    assert first(rows(37, **COLLAPSE | {"accuracy": settling(0.11, 0.06)}))


def test_it_is_one_too_where_no_group_taught_before_the_form_was_found() -> None:
    idle = rows(37, **COLLAPSE | {"idle": lambda share: 1 - 4 * share if share < 0.25 else 0.8 * (share - 0.25)})
    assert first(idle)


def test_weights_of_the_rewards_are_divided_out() -> None:
    found = first(rows(37, **COLLAPSE))
    assert found is not None
    weights = {"rewards/format/mean": 0.1, "rewards/accuracy/mean": 2.0}
    weighed = [{name: value * weights.get(name, 1.0) for name, value in row.items()} for row in rows(37, **COLLAPSE)]
    again = first(weighed, format_weight=0.1, accuracy_weight=2.0)
    assert again is not None
    assert (again.step, again.before.length) == (found.step, found.before.length)
    assert first(weighed) is None  # as if the form had hardly been found


@pytest.mark.parametrize(
    ("metric", "near", "over"),
    [
        ("length", settling(65, 0.61 * 65), settling(65, 0.59 * 65)),
        ("format", settling(0.8, 0.99), settling(0.78, 0.99)),
        ("accuracy", settling(0.05, 0.21), settling(0.05, 0.19)),
        ("idle", settling(0.5, 0.59), settling(0.5, 0.61)),
    ],
)
def test_each_sign_is_needed(metric: str, near: Callable[[float], float], over: Callable[[float], float]) -> None:
    others = COLLAPSE | ({"accuracy": settling(0.06, 0.06)} if metric == "format" else {})
    assert first(rows(60, **others | {metric: near})) is None
    assert first(rows(60, **others | {metric: over}))


def test_brevity_that_brings_right_answers_is_none() -> None:
    assert first(rows(37, **COLLAPSE | {"accuracy": settling(0.0, 0.5)})) is None


def test_too_few_rollouts_tell_nothing() -> None:
    sudden = rows(4, **COLLAPSE)[:1] * 4 + rows(4, **COLLAPSE)[-1:] * 4
    assert collapse(sudden[:7]) is None
    assert collapse(sudden)


def test_rollouts_with_general_prompts_are_not_held_against_those_without() -> None:
    sudden = rows(4, **COLLAPSE)[:1] * 8 + [rows(4, **COLLAPSE)[-1] | {"rewards/preference/mean": 0.5}] * 8
    assert collapse([{key: value for key, value in row.items() if "preference" not in key} for row in sudden])
    assert first(sudden) is None


def test_without_one_of_the_rewards_nothing_is_told() -> None:
    assert first(rows(37, **COLLAPSE), format_weight=0.0) is None
    assert first(rows(37, **COLLAPSE), accuracy_weight=0.0) is None
    assert collapse([]) is None


def test_healthy_runs_of_the_miniature_are_none() -> None:
    stages: dict[str, Rows] = json.loads(HEALTHY.read_text(encoding="utf-8"))
    assert {name: len(rollouts) for name, rollouts in stages.items()} == {
        "zero": 30, "dev2": 20, "dev2_without_language_reward": 20, "r1": 20, "student_rl": 50,
    }  # fmt: skip
    assert [name for name, rollouts in stages.items() if first(rollouts)] == []
    general = ["rewards/preference/mean" in row for row in stages["r1"]]
    assert general == [False] * 10 + [True] * 10  # the last half of the rollouts asks general prompts, too


# In a stage: the shipped student on problems that it cannot solve, so hot that it must find the form first.

HOT: dict[str, Any] = {
    "template": "zero", "max_steps": 18, "prompts_per_step": 4, "num_generations": 8, "steps_per_generation": 1,
    "max_completion_length": 64, "learning_rate": 1e-3, "temperature": 1.6, "loss_type": "grpo", "save_steps": 100,
    "seed": 1,
}  # fmt: skip


@dataclass
class Listener:
    """A display that keeps what it is told."""

    steps: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def begin(self, step: Step) -> None:
        pass

    def advance(self, step: Step, done: int, total: int, metrics: Metrics) -> None:
        self.steps.append(done)

    def warn(self, step: Step, message: str) -> None:
        self.warnings.append(message)

    def end(self, step: Step) -> None:
        pass


def hot(runs: Path, on_collapse: str, tracker: MlflowTracker | None = None) -> tuple[Artifact, Listener, str]:
    """Run the stage; returns what it made, what was told, and the error that ended it."""
    listener, error = Listener(), ""
    with session(Session(runs, "plain", tracker=tracker, save_every_s=1e9)) as opened:
        asked = collect("problems", ProblemsConfig(count=64, general_count=1, families={"logic": 1.0}))
        base = adopt("base", Folder())
        opened.displays = [listener]
        try:
            reinforce("zero", base, asked, GRPOConfig(**HOT, on_collapse=on_collapse))
        except ValueError as stopped:
            error = str(stopped)
    return opened.steps[-1].artifact, listener, error


def test_a_stage_warns_or_stops_there_and_goes_on_to_the_same(tmp_path: Path) -> None:
    tracker = MlflowTracker(tmp_path / "stopped", "hot")
    warned, listener, error = hot(tmp_path / "warned", "warn")
    [warning] = listener.warnings
    assert (error, listener.steps) == ("", list(range(1, 19)))
    at = warned.record()["summary"]["collapsed_at_step"]
    assert 8 <= at < 18
    assert f"collapses at step {at}: " in warning

    stopped, listener, error = hot(tmp_path / "stopped", "stop", tracker)
    assert stopped.key == warned.key  # how a stage is watched is no part of what it makes
    assert (listener.steps, listener.warnings) == (list(range(1, at + 1)), [warning])
    assert error == f'zero: {warning}. on_collapse = "stop" ended the stage here and its state is saved; ' \
        'with on_collapse = "warn" it goes on from there'  # fmt: skip
    assert not stopped.done
    assert (stopped.folder / RESUME / f"state-{at:08d}").is_dir()
    [run] = mlflow.MlflowClient(store_uri(tmp_path / "stopped")).search_runs(
        [tracker.experiment_id], "tags.stage = 'reinforce'"
    )
    assert (run.data.tags["collapse"], run.info.status) == (warning, "FAILED")

    _, listener, again = hot(tmp_path / "stopped", "stop")
    assert (again, listener.steps) == (error, [])

    resumed, listener, error = hot(tmp_path / "stopped", "warn")
    assert (error, listener.steps, listener.warnings) == ("", list(range(at + 1, 19)), [warning])
    for name in (METRICS, "policy/model.safetensors", "trajectories.parquet"):
        assert resumed.record()["files"][name] == warned.record()["files"][name]
    assert resumed.record()["summary"]["collapsed_at_step"] == at
