"""Histories of stages and pipelines whose process is killed: each is closed in the end, and has every metric once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest
import torch
from mlflow import MlflowClient

from data.lineage import RESUME, Artifact, Json, Policy, Report, Table
from tasks.resume import State
from tasks.stage import Run, Session, Step, Summary, session, stage
from tasks.tracking import MlflowTracker, store_uri


class Killed(BaseException):
    """The end of a process."""


class Dying(MlflowTracker):
    """The tracker of a process that is killed when a stage called `stage` is made; the dead tell nothing."""

    def __init__(self, runs: Path, recipe: str, stage: str, moment: str) -> None:
        super().__init__(runs, recipe)
        self.stage, self.moment = stage, moment

    def end(self, run_id: str, step: Step, record: Mapping[str, Json]) -> dict[str, str]:
        noted = super().end(run_id, step, record)
        self._die(step.artifact, "before its record")
        return noted

    def finish(self, artifact: Artifact) -> None:
        self._die(artifact, "before it is FINISHED")
        super().finish(artifact)
        self._die(artifact, "before its states are gone")

    def fail(self, run_id: str, killed: bool) -> None:
        pass

    def _die(self, artifact: Artifact, moment: str) -> None:
        if (artifact.stage, moment) == (self.stage, self.moment):
            raise Killed


@stage(version=1, makes=Table)
def count(run: Run) -> Summary:
    """A stage without states."""
    for step in (1, 2, 3):
        run.log(step, 3, {"loss": 1 / step})
    return {"rows": 3}


@stage(version=1, makes=Policy)
def train(run: Run) -> Summary:
    """A stage with states, the last of them before its last step."""
    for step in range(run.state.step + 1 if run.state else 1, 4):
        run.log(step, 3, {"loss": 1 / step})
        if step < 3:
            (run.folder / "checkpoints" / f"step-{step}").mkdir(parents=True, exist_ok=True)
            run.save(step, lambda at=step: State(at, {"w": torch.zeros(1)}), at_once=True)  # type: ignore[misc]
    return {"rows": 3}


@stage(version=1, makes=Report)
def measure(run: Run, policy: Policy, problems: Table) -> Summary:
    """A stage with a shard."""
    run.shard("answers", lambda: pl.DataFrame({"right": [True]}))
    for step in (1, 2, 3):
        run.log(step, 3, {"loss": 1 / step})
    return {"rows": 3, "pass@1": 0.5}


def make(tracker: MlflowTracker, runs: Path) -> dict[str, Artifact]:
    with session(Session(runs, "plain", tracker=tracker)):
        problems, policy = count("problems"), train("zero")
        return {"count": problems, "train": policy, "measure": measure("evaluation", policy, problems)}


@pytest.mark.parametrize(
    ("stage", "moment", "statuses", "attempts"),
    [
        ("count", "before its record", ["KILLED", "FINISHED"], "1"),
        ("train", "before its record", ["FINISHED"], "2"),
        ("measure", "before its record", ["FINISHED"], "2"),
        ("count", "before it is FINISHED", ["FINISHED"], "1"),
        ("train", "before it is FINISHED", ["FINISHED"], "1"),
        ("count", "before its states are gone", ["FINISHED"], "1"),
        ("train", "before its states are gone", ["FINISHED"], "1"),
    ],
)
def test_a_stage_that_is_killed_at_its_end_has_one_finished_run(
    stage: str, moment: str, statuses: list[str], attempts: str, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        make(Dying(tmp_path, "tea", stage, moment), tmp_path)
    tracker = MlflowTracker(tmp_path, "tea")
    made = make(tracker, tmp_path)[stage]
    assert made.closed
    assert not (made.folder / RESUME).exists()

    client = MlflowClient(store_uri(tmp_path))
    ordered = client.search_runs([tracker.experiment_id], f"tags.artifact = '{made.key}'", order_by=["start_time ASC"])
    assert [run.info.status for run in ordered] == statuses
    done = ordered[-1]
    assert made.record()["mlflow_run_id"] == done.info.run_id
    assert done.data.tags["attempts"] == attempts
    assert done.info.start_time <= done.info.end_time
    expected = {"loss": [(1, 1.0), (2, 1 / 2), (3, 1 / 3)], "summary/rows": [(0, 3.0)]}
    if stage == "measure":
        expected |= {"summary/pass_at_1": [(0, 0.5)], "pass_at_1": [(0, 0.5)], "rows": [(0, 3.0)]}
    names = done.data.metrics.keys() - {"used_by"}
    histories = {name: client.get_metric_history(done.info.run_id, name) for name in names}
    assert {name: [(point.step, point.value) for point in points] for name, points in histories.items()} == expected
    models = {each.model_id: each.name for each in client.search_logged_models([tracker.experiment_id])}
    names = {models[each.model_id]: each.step for each in done.outputs.model_outputs}
    if stage == "train":
        assert names == {made.key: 0, f"{made.key}-step-1": 1, f"{made.key}-step-2": 2}
        assert models[made.record()["mlflow_model_id"]] == made.key
    assert sorted(models.values()) == sorted(set(models.values()))


def test_a_session_without_a_tracker_leaves_an_open_history_to_one_that_has_it(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        make(Dying(tmp_path, "tea", "count", "before it is FINISHED"), tmp_path)
    with session(Session(tmp_path, "plain")) as opened:
        made = count("problems")
    assert opened.steps[0].cached
    assert made.done
    assert not made.closed
    tracker = MlflowTracker(tmp_path, "tea")
    with session(Session(tmp_path, "plain", tracker=tracker)):
        count("problems")
    assert made.closed
    assert tracker.client.get_run(made.record()["mlflow_run_id"]).info.status == "FINISHED"


def test_what_another_recipe_began_has_its_metrics_in_the_run_of_the_one_that_ends_it(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        make(Dying(tmp_path, "tea", "train", "before its record"), tmp_path)
    tracker = MlflowTracker(tmp_path, "coffee")
    made = make(tracker, tmp_path)["train"]
    client = tracker.client
    everywhere = [each.experiment_id for each in client.search_experiments()]
    found = client.search_runs(everywhere, f"tags.artifact = '{made.key}'", order_by=["start_time ASC"])
    names = {each.experiment_id: each.name for each in client.search_experiments()}
    assert [(names[run.info.experiment_id], run.info.status) for run in found] == [
        ("tea", "KILLED"),
        ("coffee", "FINISHED"),
    ]
    history = client.get_metric_history(made.record()["mlflow_run_id"], "loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]


def test_a_pipeline_that_is_retried_goes_on_in_its_run_and_one_that_is_lost_is_killed(tmp_path: Path) -> None:
    retried, lost, living = (MlflowTracker(tmp_path, "tea", flow_run=name) for name in ("retried", "lost", "living"))
    again = MlflowTracker(tmp_path, "tea", flow_run="retried")
    assert again.pipeline == retried.pipeline

    def statuses() -> list[str]:
        return [again.client.get_run(each.pipeline).info.status for each in (retried, lost, living)]

    again.close_lost(lambda name: name == "living")
    assert statuses() == ["RUNNING", "KILLED", "RUNNING"]
    again.close()
    living.close_lost(lambda name: False)
    assert statuses() == ["FINISHED", "KILLED", "RUNNING"]
    assert MlflowTracker(tmp_path, "tea", flow_run="retried").pipeline == retried.pipeline
    assert statuses() == ["RUNNING", "KILLED", "RUNNING"]
