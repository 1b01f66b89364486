"""MLflow's view of the pipeline: one run a stage, under the run of its pipeline. The only `import mlflow`.

The record of an artifact is the truth and MLflow shows it: resolved configuration as params, metrics by
step, the datasets and checkpoints that came in, and those that went out.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")  # waiting for its queue takes a second

import mlflow
import polars as pl
from mlflow import MlflowClient
from mlflow.entities import (
    AssessmentSource,
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
)
from mlflow.exceptions import MlflowException
from sqlalchemy import Engine, event

from data.address import answers
from data.lineage import METRICS, RECORD, RESUME, TIMES, Artifact, Json, Judge, Policy, Report, Table
from data.mixture import declared
from data.sets import composition
from data.store import read_table
from data.waterfall import breakdown, by_reason
from tasks.card import composition_table
from tasks.curve import CURVE, PICTURE
from tasks.describe import Link, assessments, describe, flatten, metric_name, waterfall
from tasks.stage import Metrics, Step

for _noisy in ("mlflow", "alembic"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)

_log = logging.getLogger(__name__)

RULE = AssessmentSource(source_type="CODE", source_id="r1")
CONTEXTS = {
    ("finetune", "rows"): "training",
    ("pretrain", "rows"): "training",
    ("reinforce", "problems"): "rollout",
    ("generate", "problems"): "rollout",
    ("sift", "problems"): "difficulty",
    ("curate", "trajectories"): "curation",
    ("curate", "general"): "curation",
    ("curate", "heldout"): "decontamination",
    ("label", "trajectories"): "preference",
    ("train_judge", "labels"): "preference",
    ("evaluate", "problems"): "evaluation",
    ("trace_curve", "problems"): "evaluation",
}
"""What a table is to the stage that takes it."""

CHILD = "mlflow.r1.child."
"""Begins the tags that name the runs which used what a run made: one each, as several may be written at once."""

FLOW_RUN = "flow_run"
"""The tag that names the flow run of Prefect which a pipeline's run belongs to."""

TAG_CHARACTERS = 8_000  # MLflow cuts longer tags without a word
FLUSH_EVERY_S = 10.0
PARAM_CHARACTERS = 6_000  # MLflow cuts longer values without a word


def store_uri(runs: Path) -> str:
    """The tracking store of a runs folder: one SQLite file, no server needed."""
    return f"sqlite:///{(runs / '.mlflow' / 'mlflow.db').resolve()}"


@event.listens_for(Engine, "connect")
def _log_ahead(connection: Any, _: object) -> None:
    """Let SQLite append to a log, as Prefect does: then a commit, of which a stage has dozens, waits for no disk.

    After a power cut the store is whole, and at most lacks its last lines.
    """
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")


def open_store(runs: Path, server: str = "") -> MlflowClient:
    """Return a client of a runs folder's store, which is made where there is none, or of the server at `server`."""
    (runs / ".mlflow").mkdir(parents=True, exist_ok=True)
    uri = server or store_uri(runs)
    mlflow.set_tracking_uri(uri)
    return MlflowClient(uri)


class MlflowTracker:
    """Writes the history of stages into the store of a runs folder, or to the server at `server`.

    `pipeline` is the parent run that the stages of this invocation belong to. Where none is given it is the one that
    an earlier attempt of `flow_run` opened, or a new one.
    `depot` is the address that artifacts are kept at for other machines; without it they are where they were made.
    While a server is away a stage goes on, and what it has to say is kept until the server is back.
    """

    def __init__(
        self, runs: Path, recipe: str, server: str = "", pipeline: str = "", depot: str = "", flow_run: str = ""
    ) -> None:
        self.server, self.depot = server, depot
        self.client = open_store(runs, server)
        self.recipe = recipe
        self.experiment_id = self._experiment(recipe, runs)
        self._own_pipeline = not pipeline
        self.pipeline = pipeline or self._pipeline_run(recipe, flow_run)
        self._pending: dict[str, list[Metric]] = {}
        self._unshown: list[tuple[str, Sequence[Mapping[str, Json]], int]] = []
        self._untagged: list[tuple[str, str, str]] = []
        self._known: dict[str, dict[str, int]] = {}
        self._flushed = time.monotonic()

    def begin(self, step: Step) -> str:
        """Open the run of a stage with its params and inputs, or the one of an attempt that this one goes on from.

        The leftover run of an attempt that nothing was left of, or that belongs to another recipe, is marked KILLED
        unless it is closed. Metrics that the files have and the run has not are added.
        """
        artifact = step.artifact
        left = self._leftover(artifact)
        ours = left is not None and left.info.experiment_id == self.experiment_id
        if left is not None and ours and (artifact.folder / RESUME).is_dir():
            run_id = str(left.info.run_id)
            attempts = int(left.data.tags.get("attempts", 1)) + 1
            self.client.set_tag(run_id, "attempts", str(attempts))
            self.client.set_tag(run_id, "mlflow.parentRunId", self.pipeline)
            self.client.update_run(run_id, "RUNNING")
            self._known[run_id] = {}
            self._catch_up(run_id, artifact)
            return run_id
        if left is not None and left.info.status == "RUNNING":
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
        self._catch_up(run_id, artifact)
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
            self._flushed = time.monotonic()
            if self._is_there():
                self._flush(run_id)

    def end(self, run_id: str, step: Step, record: Mapping[str, Json]) -> dict[str, str]:
        """Add summary figures and what was made to the run of a stage; return the ids to be noted."""
        now = int(time.time() * 1000)
        figures = {key: value for key, value in record["summary"].items() if isinstance(value, int | float)}
        self._wait(step.artifact)
        queue = self._pending.setdefault(run_id, [])
        for key, value in figures.items():
            name = metric_name(f"summary/{key}")
            if self._last_step(run_id, name) < 0:  # else an attempt that was killed right after has written it
                queue.append(Metric(name, float(value), now, 0))
        self._flush(run_id)
        noted = self._log_output(run_id, step, record)
        if isinstance(step.artifact, Report):
            self._log_figures(run_id, step, figures)
        self._describe(run_id, record, step)
        for parent in {parent.key: parent for parents in step.parents.values() for parent in parents}.values():
            self._add_child(parent, Link(step.artifact.name, self.experiment_id, run_id))
        return noted

    def finish(self, artifact: Artifact) -> None:
        """Close the run that a record names, as of when that was written: a FINISHED run has its record."""
        self._wait(artifact)
        run_id = _noted(artifact, "mlflow_run_id")
        if run_id and self.client.get_run(run_id).info.status == "RUNNING":
            made_at = (artifact.folder / RECORD).stat().st_mtime
            self.client.set_terminated(run_id, "FINISHED", int(1000 * made_at))

    def tag(self, run_id: str, name: str, text: str) -> None:
        """Put a tag on a run; while the server is away, it is put there with the next metrics."""
        self._untagged.append((run_id, name, text[:TAG_CHARACTERS]))
        if self._is_there():
            self._flush(run_id)

    def show(self, run_id: str, rows: Sequence[Mapping[str, Json]], at: int) -> None:
        """Log trajectories as traces: prompt, thinking, summary, and what was thought of them as assessments."""
        self._unshown.append((run_id, rows, at))
        if self._is_there():
            for each in self._unshown:
                self._show(*each)
            self._unshown.clear()

    def _show(self, run_id: str, rows: Sequence[Mapping[str, Json]], at: int) -> None:
        shown = self._shown(run_id)
        for row in rows:
            if row["id"] in shown:
                continue
            tags = {"row": row["id"], "step": str(at), "policy": row["policy"], "family": row["family"], "run": run_id}
            span = mlflow.start_span_no_context(
                row["id"], inputs={"prompt": row["prompt"]}, experiment_id=self.experiment_id, tags=tags,
                metadata={"mlflow.sourceRun": run_id},
            )  # fmt: skip
            span.set_outputs({name: row[name] for name in ("thinking", "answer", "completion")})
            span.end()
            for name, value in assessments(row).items():
                mlflow.log_feedback(trace_id=span.trace_id, name=name, value=value, source=RULE)

    def _shown(self, run_id: str) -> set[str]:
        """Rows that an earlier attempt has shown already."""
        if run_id not in self._known:
            return set()
        found = self.client.search_traces(locations=[self.experiment_id], filter_string=f"tags.run = '{run_id}'")
        return {trace.info.tags["row"] for trace in found}

    def place(self, artifact: Artifact) -> None:
        """Let the alias of a station point at the checkpoint that stands there now."""
        if isinstance(artifact, Judge) or not isinstance(artifact, Policy):
            return
        model_id = _noted(artifact, "mlflow_model_id")
        if not model_id:
            return
        with suppress(MlflowException):  # it exists
            self.client.create_registered_model(self.recipe)
        found = self.client.search_model_versions(f"name = '{self.recipe}'")
        version = next((each.version for each in found if each.model_id == model_id), None)
        if version is None:
            source, run_id = f"models:/{model_id}", _noted(artifact, "mlflow_run_id")
            made = self.client.create_model_version(self.recipe, source, run_id=run_id, model_id=model_id)
            version = made.version
        self.client.set_registered_model_alias(self.recipe, artifact.name, version)

    def fail(self, run_id: str, killed: bool) -> None:
        """Close the run of a stage that did not end."""
        if not self._is_there():
            return  # the next attempt finds it as it is
        try:
            self._flush(run_id)
            self.client.set_terminated(run_id, "KILLED" if killed else "FAILED")
        except MlflowException as error:  # the disk is full: what the stage died of matters more
            _log.warning("MLflow was not told: %s", error)

    def close(self, status: str = "FINISHED") -> None:
        """Close the run of the pipeline, unless it was opened elsewhere."""
        if self._own_pipeline:
            self.client.set_terminated(self.pipeline, status)

    def close_lost(self, lives: Callable[[str], bool]) -> None:
        """Mark the runs of pipelines KILLED that nobody closed and whose flow run lives no more."""
        query = f"attributes.status = 'RUNNING' and tags.{FLOW_RUN} != ''"
        for run in self.client.search_runs([self.experiment_id], query):
            if run.info.run_id != self.pipeline and not lives(run.data.tags[FLOW_RUN]):
                self.client.set_terminated(run.info.run_id, "KILLED")

    def _experiment(self, recipe: str, runs: Path) -> str:
        found = self.client.get_experiment_by_name(recipe)
        if found is not None:
            return str(found.experiment_id)
        location = None if self.server else (runs / ".mlflow" / "artifacts").resolve().as_uri()
        try:
            return str(self.client.create_experiment(recipe, artifact_location=location))
        except MlflowException:  # another process was faster
            found = self.client.get_experiment_by_name(recipe)
            if found is None:
                raise
            return str(found.experiment_id)

    def _pipeline_run(self, recipe: str, flow_run: str) -> str:
        query = f"tags.{FLOW_RUN} = '{flow_run}'"
        for run in self.client.search_runs([self.experiment_id], query) if flow_run else ():
            self.client.update_run(run.info.run_id, "RUNNING")
            return str(run.info.run_id)
        tags = {"mlflow.runName": f"r1 {recipe} {time.strftime('%Y-%m-%d %H:%M:%S')}", "pipeline": recipe}
        tags |= {FLOW_RUN: flow_run} if flow_run else {}
        return str(self.client.create_run(self.experiment_id, tags=tags).info.run_id)

    def _describe(self, run_id: str, record: Mapping[str, Json], step: Step | None = None) -> None:
        """Write the description of a run anew, with what is known of its parents and children."""
        tags = self.client.get_run(run_id).data.tags
        if step is not None:
            parents = {each.key: each for several in step.parents.values() for each in several}.values()
            links = [self._link(parent) for parent in parents]
            stored = {"parents": json.dumps([astuple(link) for link in links if link]), "says": step.sentence}
            stored |= {"waterfall": _waterfall(step.artifact.folder, record)}
            for key, value in stored.items():
                self.client.set_tag(run_id, f"mlflow.r1.{key}", value[:TAG_CHARACTERS])
            tags = tags | {f"mlflow.r1.{key}": value for key, value in stored.items()}
        above = json.loads(tags.get("mlflow.r1.parents", "[]"))
        below = [json.loads(text) for key, text in tags.items() if key.startswith(CHILD)]
        note = describe(
            record,
            tags.get("mlflow.r1.says", ""),
            [Link(*each) for each in above],
            [Link(*each) for each in sorted(below)],
            tags.get("mlflow.r1.waterfall", ""),
        )
        self.client.set_tag(run_id, "mlflow.note.content", note)

    def _add_child(self, parent: Artifact, child: Link) -> None:
        """Name a run on the page of one of its parents."""
        run_id = _noted(parent, "mlflow_run_id")
        if not run_id:
            return  # made without MLflow
        self.client.set_tag(run_id, CHILD + child.run, json.dumps(astuple(child)))
        self._describe(run_id, parent.record())

    def _link(self, artifact: Artifact) -> Link | None:
        run_id = _noted(artifact, "mlflow_run_id")
        if not run_id:
            return None
        return Link(artifact.name, self.client.get_run(run_id).info.experiment_id, run_id)

    def _log_figures(self, run_id: str, step: Step, figures: Mapping[str, float]) -> None:
        """Note the figures of an evaluation on the checkpoint that was measured, against the problems it was asked."""
        policies = [each for several in step.parents.values() for each in several if isinstance(each, Policy)]
        tables = [each for several in step.parents.values() for each in several if isinstance(each, Table)]
        if len(policies) != 1 or len(tables) != 1:
            return
        model_id, dataset = _noted(policies[0], "mlflow_model_id"), self._dataset(tables[0])
        for key, value in figures.items() if model_id else ():
            if self._last_step(run_id, metric_name(key)) < 0:
                self.client.log_metric(
                    run_id, metric_name(key), float(value), model_id=model_id,
                    dataset_name=dataset.name, dataset_digest=dataset.digest,
                )  # fmt: skip

    def _leftover(self, artifact: Artifact) -> mlflow.entities.Run | None:
        """The last run of an artifact, where it did not finish."""
        recipes = [each.experiment_id for each in self.client.search_experiments()]
        query = f"tags.artifact = '{artifact.key}'"
        found = self.client.search_runs(recipes, query, max_results=1, order_by=["attributes.start_time DESC"])
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

    def _place(self, artifact: Artifact, folder: Path) -> str:
        """Where files of an artifact are found, by any machine that this store is for."""
        return f"{self.depot}/{folder.relative_to(artifact.runs)}" if self.depot else str(folder.resolve())

    def _dataset(self, table: Artifact, record: Mapping[str, Json] | None = None) -> Dataset:
        """A table as MLflow names it: by the digest of its content, with its rows and columns."""
        record = record or table.record()
        files = sorted(table.folder.glob("*.parquet"))
        content = hashlib.sha256(json.dumps(record["files"], sort_keys=True).encode()).hexdigest()[:36]
        columns = [
            {"name": f"{file.stem}.{name}", "type": str(kind), "required": False}
            for file in files
            for name, kind in pl.read_parquet_schema(file).items()
        ]
        profile = {"num_rows": record["summary"].get("rows"), "artifact": record["key"]}
        return Dataset(
            table.name,
            content,
            "local",
            json.dumps({"uri": self._place(table, table.folder)}),
            schema=json.dumps({"mlflow_colspec": columns}),
            profile=json.dumps(profile),
        )

    def _is_there(self) -> bool:
        """Whether the store can be written to now; one that is a file always can."""
        return not self.server or answers(f"{self.server}/health")

    def _wait(self, artifact: Artifact) -> None:
        while not self._is_there():
            _log.warning("%s is made; waiting for MLflow at %s to say so", artifact.name, self.server)
            time.sleep(FLUSH_EVERY_S)

    def _flush(self, run_id: str) -> None:
        pending = self._pending.pop(run_id, [])
        for begin in range(0, len(pending), 1000):
            self.client.log_batch(run_id, metrics=pending[begin : begin + 1000])
        while self._untagged:
            self.client.set_tag(*self._untagged[0])
            self._untagged.pop(0)
        self._flushed = time.monotonic()

    def _log_inputs(self, run_id: str, step: Step) -> None:
        datasets, models = [], []
        for argument, parents in step.parents.items():
            for parent in parents:
                if isinstance(parent, Policy):
                    models += [LoggedModelInput(_noted(parent, "mlflow_model_id"))]
                elif isinstance(parent, Table):
                    context = CONTEXTS.get((step.artifact.stage, argument), argument)
                    datasets += [DatasetInput(self._dataset(parent), [InputTag("mlflow.data.context", context)])]
        models = [model for model in models if model.model_id]
        if datasets or models:
            self.client.log_inputs(run_id, datasets=datasets, models=models)
        for model in models:  # the consumer's run then shows as a link on the page of the model it took
            self.client.log_metric(run_id, "used_by", 1.0, model_id=model.model_id)

    def _log_output(self, run_id: str, step: Step, record: Mapping[str, Json]) -> dict[str, str]:
        artifact = step.artifact
        self.client.set_tag(run_id, "folder", self._place(artifact, artifact.folder))
        if isinstance(artifact, Policy):
            kind = "reward_model" if isinstance(artifact, Judge) else "policy"
            there = self.client.get_run(run_id).outputs  # of an attempt that was killed right after
            outputs = sorted(there.model_outputs, key=lambda each: each.step) if there else []
            if not outputs:
                outputs = [self._model(run_id, artifact, artifact.key, artifact.folder / "policy", kind)]
                for folder in sorted((artifact.folder / "checkpoints").glob("step-*")):
                    at = int(folder.name.removeprefix("step-"))
                    outputs.append(self._model(run_id, artifact, f"{artifact.key}-{folder.name}", folder, kind, at))
                self.client.log_outputs(run_id, outputs)
            return {"mlflow_run_id": run_id, "mlflow_model_id": outputs[0].model_id}
        self._show_files(run_id, artifact.folder, record)
        if isinstance(artifact, Table):
            made = DatasetInput(self._dataset(artifact, record), [InputTag("mlflow.data.context", "output")])
            self.client.log_inputs(run_id, datasets=[made])
        return {"mlflow_run_id": run_id}

    def _show_files(self, run_id: str, folder: Path, record: Mapping[str, Json]) -> None:
        """Keep what people look at beside the run: pictures, and the waterfall of a build as picture and table."""
        from tasks import figures

        for picture in sorted(folder.glob("*.svg")):
            self.client.log_text(run_id, picture.read_text(encoding="utf-8"), picture.name)
        if (folder / "waterfall.parquet").is_file():
            domains = declared(record)
            counts = breakdown(folder, domains)
            shown = counts.with_columns(pl.col("domain", "language").fill_null(""))
            self.client.log_table(run_id, shown.to_dict(as_series=False), "waterfall.json")
            self.client.log_text(run_id, figures.waterfall(by_reason(counts)), "waterfall.svg")
            self.client.log_text(run_id, composition_table(composition(folder, domains)), "composition.md")
        if (folder / PICTURE).is_file():
            self.client.log_table(run_id, read_table(folder / CURVE).to_dict(as_series=False), "curve.json")

    def _model(
        self, run_id: str, artifact: Artifact, name: str, folder: Path, kind: str, at: int = 0
    ) -> LoggedModelOutput:
        """Name a checkpoint in MLflow; its files stay where they are."""
        model = mlflow.create_external_model(
            name=name,
            source_run_id=run_id,
            params={"folder": self._place(artifact, folder), "station": artifact.name},
            model_type=kind,
            experiment_id=self.experiment_id,
        )
        return LoggedModelOutput(model.model_id, at)


def _waterfall(folder: Path, record: Mapping[str, Json]) -> str:
    return waterfall(folder, declared(record)) if (folder / "waterfall.parquet").is_file() else ""


def _noted(artifact: Artifact, key: str) -> str:
    """An id that an artifact's record keeps; empty where it was made without MLflow."""
    return str(artifact.record().get(key, ""))
