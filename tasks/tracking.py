"""MLflow's view of the pipeline: one run a stage, under the run of its pipeline. The only `import mlflow`.

The record of an artifact is the truth and MLflow shows it: resolved configuration as params, metrics by
step, the datasets and checkpoints that came in, and those that went out.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")

import mlflow
from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
)

from data.lineage import METRICS, TIMES, Artifact, Json, Judge, Policy, Table
from tasks.resume import RESUME
from tasks.stage import Metrics, Step

FLUSH_EVERY_S = 5.0
PARAM_CHARACTERS = 6_000  # MLflow cuts longer values without a word


def store_uri(runs: Path) -> str:
    """Return the tracking store of a runs folder: one SQLite file, no server needed."""
    return f"sqlite:///{(runs / '.mlflow' / 'mlflow.db').resolve()}"


class MlflowTracker:
    """Writes the history of stages into the store of a runs folder.

    `pipeline` names the parent run that the stages of this invocation belong to.
    """

    def __init__(self, runs: Path, recipe: str) -> None:
        (runs / ".mlflow").mkdir(parents=True, exist_ok=True)
        uri = store_uri(runs)
        mlflow.set_tracking_uri(uri)
        self.client = MlflowClient(uri)
        self.experiment_id = self._experiment(recipe, runs)
        self.pipeline = self._pipeline_run(recipe)
        self._pending: dict[str, list[Metric]] = {}
        self._known: dict[str, dict[str, int]] = {}
        self._flushed = time.monotonic()

    def begin(self, step: Step) -> str:
        """Open the run of a stage with its params and inputs, or the one of an attempt that this one goes on from.

        The leftover run of an attempt that nothing was left of is marked KILLED. Metrics that the files have
        and the run has not are added.
        """
        artifact = step.artifact
        left = self._leftover(artifact)
        if left is not None and (artifact.folder / RESUME).is_dir():
            run_id = str(left.info.run_id)
            attempts = int(left.data.tags.get("attempts", 1)) + 1
            self.client.set_tag(run_id, "attempts", str(attempts))
            self.client.set_tag(run_id, "mlflow.parentRunId", self.pipeline)
            self.client.update_run(run_id, "RUNNING")
            self._known[run_id] = {}
            self._catch_up(run_id, artifact)
            return run_id
        if left is not None:
            self.client.set_terminated(left.info.run_id, "KILLED")
        tags = {
            "mlflow.parentRunId": self.pipeline,
            "mlflow.runName": f"{artifact.name} ({artifact.stage})",
            "artifact": artifact.key,
            "stage": artifact.stage,
            "fingerprint": artifact.fingerprint,
            "attempts": "1",
        }
        run_id = str(self.client.create_run(self.experiment_id, tags=tags).info.run_id)
        params = [Param(key, text[:PARAM_CHARACTERS]) for key, text in flatten(step.config).items()]
        for begin in range(0, len(params), 100):
            self.client.log_batch(run_id, params=params[begin : begin + 100])
        self._log_inputs(run_id, step)
        return run_id

    def link(self, run_id: str) -> str:
        """The page of a run, where a server shows it: its address is in `R1_MLFLOW_URL`."""
        url = os.environ.get("R1_MLFLOW_URL", "")
        return f"{url}/#/experiments/{self.experiment_id}/runs/{run_id}" if url else ""

    def log(self, run_id: str, metrics: Metrics, at: int) -> None:
        """Queue the metrics of one step; they are written every few seconds, and none twice."""
        now = int(time.time() * 1000)
        queue = self._pending.setdefault(run_id, [])
        for key, value in metrics.items():
            name = metric_name(key)
            if at > self._last_step(run_id, name):
                queue.append(Metric(name, float(value), now, at))
        if time.monotonic() - self._flushed > FLUSH_EVERY_S:
            self._flush(run_id)

    def end(self, run_id: str, step: Step, record: Mapping[str, Json]) -> dict[str, str]:
        """Close the run of a stage with its summary figures and what it made; return the ids to be noted."""
        now = int(time.time() * 1000)
        figures = {key: value for key, value in record["summary"].items() if isinstance(value, int | float)}
        queue = self._pending.setdefault(run_id, [])
        queue += [Metric(metric_name(f"summary/{key}"), float(value), now, 0) for key, value in figures.items()]
        self._flush(run_id)
        noted = self._log_output(run_id, step, record)
        self.client.set_tag(run_id, "mlflow.note.content", describe(step, record))
        self.client.set_terminated(run_id, "FINISHED")
        return noted

    def fail(self, run_id: str, killed: bool) -> None:
        """Close the run of a stage that did not end."""
        self._flush(run_id)
        self.client.set_terminated(run_id, "KILLED" if killed else "FAILED")

    def close(self, status: str = "FINISHED") -> None:
        """Close the run of the pipeline."""
        self.client.set_terminated(self.pipeline, status)

    def _experiment(self, recipe: str, runs: Path) -> str:
        found = self.client.get_experiment_by_name(recipe)
        if found is not None:
            return str(found.experiment_id)
        location = (runs / ".mlflow" / "artifacts").resolve().as_uri()
        return str(self.client.create_experiment(recipe, artifact_location=location))

    def _pipeline_run(self, recipe: str) -> str:
        tags = {"mlflow.runName": f"r1 {recipe} {time.strftime('%Y-%m-%d %H:%M:%S')}", "pipeline": recipe}
        return str(self.client.create_run(self.experiment_id, tags=tags).info.run_id)

    def _leftover(self, artifact: Artifact) -> mlflow.entities.Run | None:
        """The last run of an artifact, where it did not finish."""
        query = f"tags.artifact = '{artifact.key}'"
        found = self.client.search_runs([self.experiment_id], query, order_by=["attributes.start_time DESC"])
        return found[0] if found and found[0].info.status != "FINISHED" else None

    def _catch_up(self, run_id: str, artifact: Artifact) -> None:
        for name in (METRICS, TIMES):
            path = artifact.folder / name
            for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
                values = json.loads(line)
                self.log(run_id, values, values.pop("step"))

    def _last_step(self, run_id: str, name: str) -> int:
        """The last step that a reopened run has of a metric; MLflow keeps doubles."""
        known = self._known.get(run_id)
        if known is None:
            return -1
        if name not in known:
            history = self.client.get_metric_history(run_id, name)
            known[name] = max((metric.step for metric in history), default=-1)
        return known[name]

    def _flush(self, run_id: str) -> None:
        pending = self._pending.pop(run_id, [])
        for begin in range(0, len(pending), 1000):
            self.client.log_batch(run_id, metrics=pending[begin : begin + 1000])
        self._flushed = time.monotonic()

    def _log_inputs(self, run_id: str, step: Step) -> None:
        datasets, models = [], []
        for argument, parents in step.parents.items():
            for parent in parents:
                if isinstance(parent, Policy):
                    models += [LoggedModelInput(_model_id(parent))]
                elif isinstance(parent, Table):
                    datasets += [DatasetInput(_dataset(parent), [InputTag("mlflow.data.context", argument)])]
        models = [model for model in models if model.model_id]
        if datasets or models:
            self.client.log_inputs(run_id, datasets=datasets, models=models)
        for model in models:  # the consumer's run then shows as a link on the page of the model it took
            self.client.log_metric(run_id, "used_by", 1.0, model_id=model.model_id)

    def _log_output(self, run_id: str, step: Step, record: Mapping[str, Json]) -> dict[str, str]:
        artifact = step.artifact
        self.client.set_tag(run_id, "folder", str(artifact.folder.resolve()))
        if isinstance(artifact, Policy):
            model = mlflow.create_external_model(
                name=artifact.key,
                source_run_id=run_id,
                params={"folder": str(artifact.folder.resolve()), "station": artifact.name},
                model_type="reward_model" if isinstance(artifact, Judge) else "policy",
                experiment_id=self.experiment_id,
            )
            self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
            return {"mlflow_run_id": run_id, "mlflow_model_id": model.model_id}
        if isinstance(artifact, Table):
            made = DatasetInput(_dataset(artifact, record), [InputTag("mlflow.data.context", "output")])
            self.client.log_inputs(run_id, datasets=[made])
        return {"mlflow_run_id": run_id}


def metric_name(name: str) -> str:
    """Spell a metric the way MLflow allows: it refuses `@` and `=`."""
    return name.replace("@", "_at_").replace("=", "_")


def flatten(config: Mapping[str, Json], prefix: str = "") -> dict[str, str]:
    """Flatten a nested configuration into `group.key -> text`."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def describe(step: Step, record: Mapping[str, Json]) -> str:
    """Say in Markdown what a stage did, with its figures and its parents."""
    parents = ", ".join(f"`{parent['name']}` ({parent['key']})" for parent in record["parents"]) or "nothing"
    figures = [
        f"- {key}: {value:.4g}" if isinstance(value, float) else f"- {key}: {value}"
        for key, value in record["summary"].items()
        if isinstance(value, int | float | str)
    ]
    head = f"**{step.artifact.name}** made by `{step.artifact.stage}` from {parents} in {record['wall_s']} s."
    return "\n".join([head, "", *figures])


def _model_id(parent: Artifact) -> str:
    return str(parent.record().get("mlflow_model_id", ""))


def _dataset(table: Artifact, record: Mapping[str, Json] | None = None) -> Dataset:
    record = record or table.record()
    source = json.dumps({"folder": str(table.folder.resolve())})
    profile = json.dumps({key: value for key, value in record["summary"].items() if isinstance(value, int | float)})
    digest = record["fingerprint"]
    return Dataset(table.name, digest, "local", source, schema="{}", profile=profile)
