"""What people watch in Prefect: a progress artifact a stage, its figures, what was dropped, and short log lines."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from data.address import answers
from data.mixture import declared
from data.store import read_table
from data.waterfall import breakdown, by_reason
from flows.display import figures_of
from tasks.curve import CURVE, PICTURE
from tasks.describe import figures_table
from tasks.stage import Metrics, Step

UPDATE_EVERY_S = 5.0
LOG_EVERY_S = 30.0


class Board:
    """Shows the stages of a flow run on its page; called within the task that runs the stage.

    While the server is away nothing is waited for: progress is told again when it is back, and what a stage came
    to is kept until then.
    """

    def __init__(self) -> None:
        self._progress: UUID | None = None
        self._begun = self._updated = self._logged = 0.0
        self._share, self._warning = 0.0, ""
        self._owed: list[Callable[[], object]] = []

    def begin(self, step: Step) -> None:
        """A stage begins."""
        self._progress = None
        self._begun = self._logged = time.monotonic()
        self._updated = 0.0
        self._share, self._warning = 0.0, ""

    def advance(self, step: Step, done: int, total: int, metrics: Metrics) -> None:
        """A stage has come to `done` of `total`: its artifact says so every few seconds, its log now and then."""
        now = time.monotonic()
        if now - self._updated < UPDATE_EVERY_S and done < total:
            return
        self._updated = now
        left = (now - self._begun) / max(done, 1) * (total - done)
        text = "  ".join(filter(None, [f"{done}/{total}", figures_of(metrics), f"{left:.0f} s left"]))
        self._share = 100 * done / total
        if self._is_there():
            self._tell_progress(step, f"{step.artifact.name}: {text}")
        if now - self._logged > LOG_EVERY_S:
            self._logged = now
            get_run_logger().info(text)

    def warn(self, step: Step, message: str) -> None:
        """Something about a stage that people should know: in its log, and from now on beside its progress."""
        self._warning = f"WARNING: {message}"
        get_run_logger().warning("%s: %s", step.artifact.name, message)
        if self._is_there():
            self._tell_progress(step, step.artifact.name)

    def end(self, step: Step) -> None:
        """A stage is done: what it came to, where MLflow shows it, and what a curation dropped."""
        if step.cached:
            return
        record = step.artifact.record()
        link = f"\n[Its run in MLflow]({step.link})\n" if step.link else ""
        head = f"**{step.artifact.name}** `{step.artifact.key}` in {record['wall_s']:.1f} s\n"
        told = "\n".join([head, link, figures_table(record["summary"])])
        self._owed.append(partial(create_markdown_artifact, told, f"{key_of(step)}-figures", step.artifact.name))
        if (step.artifact.folder / "waterfall.parquet").is_file():
            counts = by_reason(breakdown(step.artifact.folder, declared(record)))
            rows = counts.with_columns(counts["share"].round(4)).to_dicts()
            title = f"{step.artifact.name}: rows in, dropped, kept"
            self._owed.append(partial(create_table_artifact, rows, f"{key_of(step)}-dropped", title))
        if (step.artifact.folder / PICTURE).is_file():
            rows = read_table(step.artifact.folder / CURVE).to_dicts()
            self._owed.append(partial(create_table_artifact, rows, f"{key_of(step)}-curve", step.artifact.name))
        self._pay()
        get_run_logger().info("made %s in %.1f s", step.artifact.key, record["wall_s"])

    def close(self, steps: Sequence[Step], recipe: str) -> None:
        """Add the table of stages to the page of the flow run; waits for the server where it is away."""
        rows = [
            {
                "stage": step.artifact.name,
                "artifact": step.artifact.key,
                "state": "cached" if step.cached else "made",
                "seconds": round(step.wall_s, 1),
            }
            for step in steps
        ]
        self._owed.append(partial(create_table_artifact, rows, f"{_dashed(recipe)}-stages", f"the stages of {recipe}"))
        while self._owed:
            self._pay()
            if self._owed:
                time.sleep(UPDATE_EVERY_S)

    def _tell_progress(self, step: Step, text: str) -> None:
        text, share = "  ".join(filter(None, [text, self._warning])), self._share
        if self._progress is None:
            made = create_progress_artifact(share, key_of(step), text)
            assert isinstance(made, UUID)  # a coroutine in async flows only
            self._progress = made
        else:
            update_progress_artifact(self._progress, share, text)

    def _pay(self) -> None:
        while self._owed and self._is_there():
            self._owed.pop(0)()

    def _is_there(self) -> bool:
        return answers(f"{os.environ['PREFECT_API_URL']}/health")


def key_of(step: Step) -> str:
    """Name the artifacts of a stage: lowercase letters, digits and dashes."""
    return _dashed(step.artifact.name)


def _dashed(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "stage"
