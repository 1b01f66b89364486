"""A heavy stage's body in several processes, each on its share of the rows.

Rank 0 fills the stage's folder and tells the process that keeps the stage's history what to log and to show. The
others fill a folder of their own that nobody keeps, which begins with what an earlier attempt left. They take the
same steps, since all that they decide by is the same: seeds, gradients, rewards.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from data.lineage import METRICS, RESUME, TIMES, Artifact
from model import ranks
from tasks import resume
from tasks.launch import RankDied, Tell, launch
from tasks.resume import State
from tasks.stage import Launcher, Metrics, Run, Session, Site, Summary


class Ranked(Launcher):
    """Runs bodies in several processes of this host, each on a GPU of its own where the device is one."""

    def __init__(self, processes: int) -> None:
        self.processes = processes

    def fill(self, run: Run, body: Callable[..., Summary], given: Mapping[str, object]) -> Summary:
        """As `Launcher`. Raises RankDied, with the name of the stage, where a rank was killed."""
        run.state = None  # each rank reads its own
        now = run.session
        opened = Session(now.runs, "plain", now.device, now.allow_rlimit, recipe=now.recipe,
                         save_every_s=now.save_every_s)  # fmt: skip
        with TemporaryDirectory(prefix="r1-ranks-") as beside:
            job = (body.__module__, body.__name__, replace(run, session=opened, run_id=""), dict(given), Path(beside))
            try:
                summary: Summary = launch(self.processes, run.device, fill_as_rank, job, _hear(run))
            except RankDied as error:
                told = f"{run.name}: {error}; the same command goes on from the last state that was saved"
                raise RankDied(told) from None
        return summary


def _hear(run: Run) -> Tell:
    tracker, site = run.session.tracker, run.session.site

    def log(metrics: Metrics, at: int) -> None:
        if tracker:
            tracker.log(run.run_id, metrics, at)

    heard: dict[str, Callable[..., None]] = {
        "log": log,
        "show": run.show,
        "warn": run.warn,
        "progress": run.progress,
        "keep": lambda: site.keep(run.step.artifact),
    }
    return lambda what, *values: heard[what](*values)


def fill_as_rank(module: str, name: str, run: Run, given: Mapping[str, object], beside: Path, tell: Tell) -> Summary:
    """Run a stage's body as one rank of several; what the first one returns is the stage's summary.

    Another rank's folder is under `beside`.
    """
    body = getattr(import_module(module), name).__wrapped__
    run.state = resume.latest(run.folder)
    device = run.session.device
    run.session.device = f"cuda:{ranks.rank()}" if device == "cuda" else device
    if ranks.rank() > 0:
        run.step.artifact = _as_found(run.step.artifact, beside / str(ranks.rank()))
    ranks.wait()  # before anything that was found is changed
    summary: Summary = body(RankRun(run, tell), **given)
    return summary


def _as_found(artifact: Artifact, runs: Path) -> Artifact:
    """An artifact elsewhere, with the metrics and the finished shards that are there already."""
    found, folder = artifact.folder, runs / artifact.key
    (folder / RESUME).mkdir(parents=True)
    for name in (METRICS, TIMES):
        if (found / name).is_file():
            shutil.copyfile(found / name, folder / name)
    for shard in (found / RESUME).glob("*.parquet"):
        (folder / RESUME / shard.name).symlink_to(shard.resolve())
    return replace(artifact, runs=runs)


class RankRun(Run):
    """What a body gets in a rank: only the first one tells and saves."""

    def __init__(self, run: Run, tell: Tell) -> None:
        super().__init__(run.step, run.session, state=run.state, latest=run.latest)
        self._tell = tell
        self.session.site = _Keeping(tell)

    def log(self, done: int, total: int, metrics: Metrics) -> None:
        """As `Run`."""
        super().log(done, total, metrics)
        self._tell("log", dict(metrics), done)

    def show(self, step: int, trajectories: pl.DataFrame) -> None:
        """As `Run`."""
        self._tell("show", step, trajectories)

    def warn(self, name: str, message: str) -> None:
        """As `Run`."""
        self._tell("warn", name, message)

    def progress(self, done: int, total: int, metrics: Metrics | None = None) -> None:
        """As `Run`."""
        self._tell("progress", done, total, dict(metrics or {}))

    def save(self, step: int, state: Callable[[], State], at_once: bool = False) -> None:
        """As `Run`; what is saved at once is there for all ranks."""
        if ranks.rank() == 0:
            super().save(step, state, at_once)
        if at_once:
            ranks.wait()

    def shard(self, name: str, make: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        """As `Run`; whether it was finished is for the first one to say."""
        found = ranks.from_first(lambda: resume.read_shard(self.folder, name))
        return found if found is not None else super().shard(name, make)


class _Keeping(Site):
    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def keep(self, artifact: Artifact) -> None:
        self._tell("keep")
