"""A stage: a plain function that fills a folder, run once per fingerprint as a Prefect task.

    @stage(version=1, makes=Policy)
    def finetune(run: Run, policy: Policy, rows: Table, config: SFTConfig) -> Summary: ...

    dev1 = finetune("dev1", base, cold, recipe.cold.sft)

Calling a stage needs a session. In a planning session nothing runs: the call returns the handle of what
would be made. In a running session the folder is filled under a lock beside it, then the record is
written, and last its history is closed; a folder that has a record is taken as it is. A plain session does
the same without Prefect.

A stage that was stopped leaves its folder without a record. The next attempt goes on from `run.state`, which
it saved by `run.save`, and from the shards that it had finished; what it logged after that state is forgotten.
"""

from __future__ import annotations

import inspect
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, wraps
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

import polars as pl

from data.lineage import (
    METRICS,
    RECORD,
    RESUME,
    TIMES,
    Artifact,
    Json,
    canonical,
    check,
    file_digests,
    fingerprint,
    sha256_of,
    write_json,
)
from data.lock import lane, locked
from data.sandbox import Isolation, choose
from tasks import resume
from tasks.resume import State

P = ParamSpec("P")
A = TypeVar("A", bound=Artifact)
Summary = dict[str, Json]
Metrics = Mapping[str, float]


class Display(Protocol):
    """Where people watch a run."""

    def begin(self, step: Step) -> None:
        """A stage begins."""

    def advance(self, step: Step, done: int, total: int, metrics: Metrics) -> None:
        """A stage has come to `done` of `total`."""

    def warn(self, step: Step, message: str) -> None:
        """Something about a stage that people should know while it runs."""

    def end(self, step: Step) -> None:
        """A stage is done."""


class Tracker(Protocol):
    """Where a stage's history is kept (`tasks.tracking`)."""

    def begin(self, step: Step) -> str:
        """Open the history of a stage and return its id."""
        ...

    def link(self, run_id: str) -> str:
        """Where the history of a stage is shown; empty where no server shows it."""
        ...

    def log(self, run_id: str, metrics: Metrics, at: int) -> None:
        """Add the metrics of one step."""

    def tag(self, run_id: str, name: str, text: str) -> None:
        """Mark the history of a stage with something that people should know."""

    def end(self, run_id: str, step: Step, record: Mapping[str, Json]) -> dict[str, str]:
        """Add to the history of a stage what it made; return the ids that its record keeps."""
        ...

    def finish(self, artifact: Artifact) -> None:
        """Close the history of an artifact whose record is written."""

    def fail(self, run_id: str, killed: bool) -> None:
        """Close the history of a stage that did not end."""

    def show(self, run_id: str, rows: Sequence[Mapping[str, Json]], at: int) -> None:
        """Add trajectories that people may want to read."""


class Site:
    """This machine's place among others: here, on its own. `flows.shared` has the one of a shared installation."""

    def take(self, artifact: Artifact) -> bool:
        """Fetch an artifact that another machine made. Returns False where nobody did."""
        return False

    def put(self, artifact: Artifact) -> None:
        """Let other machines have an artifact."""

    def send(self, step: Step) -> bool:
        """Have a heavy stage made by a machine that fits it, and fetch it. Returns False where it is made here."""
        return False

    def keep(self, artifact: Artifact) -> None:
        """Let other machines go on from what an unfinished artifact has saved."""

    def regain(self, artifact: Artifact) -> None:
        """Fetch what another machine saved of an unfinished artifact, where it came further than this one."""

    def alone(self, artifact: Artifact) -> AbstractContextManager[None]:
        """Keep other machines from making the same artifact at the same time."""
        return nullcontext()


class Launcher:
    """How a heavy stage's body is run: here, in this process. `tasks.ranked` has the one of several processes."""

    processes = 1

    def fill(self, run: Run, body: Callable[..., Summary], given: Mapping[str, object]) -> Summary:
        """Let a body fill its folder; returns its summary."""
        from model.device import current

        with current(run.device):
            return body(run, **given)


@dataclass(slots=True)
class Step:
    """One call of a stage: what it would make, out of what, and what came of it in this session.

    `sentence` says what the stage does, `source` is a digest of the file that says how, and `link` is where its
    history is shown, once it has one.
    """

    artifact: Artifact
    version: int
    config: dict[str, Json]
    parents: dict[str, list[Artifact]]
    cached: bool
    wall_s: float = 0.0
    index: int = 0
    sentence: str = ""
    source: str = ""
    link: str = ""


@dataclass(slots=True)
class Session:
    """The context that stages are called in: where artifacts live, on what to compute, who watches.

    `wanted` are the keys of the artifacts to be made; None makes all. `allow_rlimit` lets untrusted programs run
    under resource limits alone where the host grants nothing stronger.
    """

    runs: Path
    mode: Literal["plan", "run", "plain"]
    device: str = "cpu"
    allow_rlimit: bool = True
    displays: Sequence[Display] = ()
    tracker: Tracker | None = None
    site: Site = field(default_factory=Site)
    launcher: Launcher = field(default_factory=Launcher)
    recipe: str = ""
    wanted: frozenset[str] | None = None
    variant: str = ""
    save_every_s: float = 30.0
    steps: list[Step] = field(default_factory=list)
    states: dict[str, Any] = field(default_factory=dict)

    @property
    def isolation(self) -> Isolation:
        """How untrusted programs are shut in here."""
        return choose(self.allow_rlimit)


_session: ContextVar[Session] = ContextVar("session")


@contextmanager
def session(opened: Session) -> Iterator[Session]:
    """Make a session the one that stage calls in this block belong to."""
    token = _session.set(opened)
    try:
        yield opened
    finally:
        _session.reset(token)


@contextmanager
def variant(suffix: str) -> Iterator[None]:
    """Let the names of the stages called in this block end in a suffix, so that a recipe can run them twice."""
    now = _session.get()
    before, now.variant = now.variant, now.variant + suffix
    try:
        yield
    finally:
        now.variant = before


@dataclass(slots=True)
class Run:
    """What a stage's body gets: the folder to fill, the device, and a place for its metrics."""

    step: Step
    session: Session
    run_id: str = ""
    state: State | None = None
    latest: dict[str, float] = field(default_factory=dict)
    _saved_at: float = field(default_factory=time.monotonic)
    _cost_s: float = 0.0

    @property
    def folder(self) -> Path:
        """The folder to fill."""
        return self.step.artifact.folder

    @property
    def device(self) -> str:
        """Where to compute: `cpu`, `cuda`, `cuda:1`."""
        return self.session.device

    @property
    def name(self) -> str:
        """The stage's station in the recipe."""
        return self.step.artifact.name

    def log(self, done: int, total: int, metrics: Metrics) -> None:
        """Record the metrics of one step out of `total`, in files and in MLflow, and show how far it is.

        Times, whose names end in `_time`, go into `times.jsonl`, the others into `metrics.jsonl`, which is
        equal for equal runs. `latest` holds the last value of each.
        """
        times = {name: value for name, value in metrics.items() if name.endswith("_time")}
        others = {name: value for name, value in metrics.items() if name not in times}
        for name, values in ((METRICS, others), (TIMES, times)):
            if values:
                with (self.folder / name).open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": done, **values}) + "\n")
        self.latest |= metrics
        if self.session.tracker:
            self.session.tracker.log(self.run_id, metrics, done)
        self.progress(done, total, metrics)

    def show(self, step: int, trajectories: pl.DataFrame) -> None:
        """Let people read some trajectories of a step: the best, the worst and the longest."""
        if self.session.tracker:
            by_reward = trajectories.sort("reward", "tokens")
            shown = pl.concat([by_reward.head(1), by_reward.tail(1), trajectories.sort("tokens").tail(1)])
            rows = [row | {"policy": self.name} for row in shown.unique("id", maintain_order=True).to_dicts()]
            self.session.tracker.show(self.run_id, rows, step)

    def warn(self, name: str, message: str) -> None:
        """Tell people something about the stage while it runs; `name` is the tag of its history that keeps it."""
        for display in self.session.displays:
            display.warn(self.step, message)
        if self.session.tracker:
            self.session.tracker.tag(self.run_id, name, message)

    def save(self, step: int, state: Callable[[], State], at_once: bool = False) -> None:
        """Save the state after a step, when it is time to: another attempt will go on from there.

        It is time when `save_every_s` of the session have passed, and so much that saving takes no more than a
        fortieth of the time; or `at_once`.
        """
        begun = time.monotonic()
        if not at_once and begun - self._saved_at < max(self.session.save_every_s, 40 * self._cost_s):
            return
        resume.save(self.folder, state())
        self.session.site.keep(self.step.artifact)
        self._saved_at = time.monotonic()
        self._cost_s = self._saved_at - begun

    def shard(self, name: str, make: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        """Take a part of a table that an earlier attempt finished, or make and keep it."""
        found = resume.read_shard(self.folder, name)
        if found is None:
            found = make()
            resume.write_shard(self.folder, name, found)
            self.session.site.keep(self.step.artifact)
        return found

    def progress(self, done: int, total: int, metrics: Metrics | None = None) -> None:
        """Show how far the stage is, and record nothing."""
        for display in self.session.displays:
            display.advance(self.step, done, total, metrics or {})


Body = Callable[Concatenate[Run, P], Summary]


def stage(
    *, version: int, makes: type[A], heavy: bool = False
) -> Callable[[Body[P]], Callable[Concatenate[str, P], A]]:
    """Turn a body that fills a folder into a stage. Raise `version` when the body's meaning changes.

    A `heavy` stage computes on the device and has it for itself.
    """

    def decorate(body: Body[P]) -> Callable[Concatenate[str, P], A]:
        """The stage of a body, whose docstring's first line is the sentence that its history says."""
        signature = inspect.signature(body)
        file = Path(inspect.getfile(body))
        source = sha256_of(file)[:12] if file.is_file() else ""

        @wraps(body)
        def call(name: str, /, *args: P.args, **kwargs: P.kwargs) -> A:
            """Return the artifact `name`, made where the session makes. Raises RuntimeError outside of a session."""
            now = _session.get(None)
            if now is None:
                raise RuntimeError(f"{body.__name__} is a stage: call it within `with session(Session(...))`")
            bound = signature.bind(None, *args, **kwargs)
            bound.apply_defaults()
            given = dict(list(bound.arguments.items())[1:])
            step = _plan(makes, name, body.__name__, version, given, now)
            step.sentence = (body.__doc__ or "").partition("\n")[0]
            step.source = source
            if now.wanted is None or step.artifact.key in now.wanted:
                if now.mode == "run":
                    _submit(step, body, given, now, heavy)
                elif now.mode == "plain":
                    _make(step, body, given, now, heavy)
            artifact = step.artifact
            assert isinstance(artifact, makes)
            return artifact

        return call

    return decorate


def _plan(makes: type[Artifact], name: str, kind: str, version: int, given: Mapping[str, object], now: Session) -> Step:
    parents = {key: _artifacts(value) for key, value in given.items() if _artifacts(value)}
    config = {key: canonical(value) for key, value in given.items() if key not in parents}
    heritage = {key: _heritage(given[key]) for key in parents}
    artifact = makes(name + now.variant, kind, fingerprint(kind, version, config, heritage), now.runs)
    step = Step(artifact, version, config, parents, cached=artifact.done, index=len(now.steps))
    now.steps.append(step)
    return step


def _artifacts(value: object) -> list[Artifact]:
    """List the artifacts that an argument holds: itself, or the items of a sequence or mapping of them."""
    if isinstance(value, Artifact):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, Sequence) and value and all(isinstance(item, Artifact) for item in value):
        return list(value)
    return []


def _heritage(value: object) -> Json:
    """The fingerprints of an argument's artifacts; a mapping's keys say what each is for, so they count."""
    if isinstance(value, Mapping):
        return {key: artifact.fingerprint for key, artifact in value.items()}
    return [artifact.fingerprint for artifact in _artifacts(value)]


@cache
def _task(kind: str) -> Any:
    from prefect import task
    from prefect.cache_policies import NO_CACHE
    from prefect.states import Completed

    @task(name=kind, task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False, log_prints=False)
    def run(name: str, make: Callable[[], bool]) -> Any:
        return Completed(name="Made" if make() else "Cached")

    return run


def _submit(step: Step, body: Callable[..., Summary], given: Mapping[str, object], now: Session, heavy: bool) -> None:
    """Run the step as a Prefect task, linked to the tasks of its parents."""
    parents = [parent.key for parents in step.parents.values() for parent in parents]
    above = [now.states[key] for key in parents if key in now.states]
    made = step.artifact
    state = _task(made.stage)(
        f"{made.stage} {made.name} {now.recipe}-{made.fingerprint[:4]}",
        lambda: _make(step, body, given, now, heavy),
        wait_for=above,
        return_state=True,
    )
    now.states[step.artifact.key] = state
    if not state.is_completed():
        state.result(raise_on_failure=True)


def _make(step: Step, body: Callable[..., Summary], given: Mapping[str, object], now: Session, heavy: bool) -> bool:
    """Fill the artifact's folder unless it has a record. Returns whether it was made here.

    Heavy stages take turns on a device, over all processes of a machine that share the runs folder.
    """
    begun = time.monotonic()
    for display in now.displays:
        display.begin(step)
    artifact, site = step.artifact, now.site
    with locked(now.runs / f".{artifact.key}.lock"):
        step.cached = artifact.done or site.take(artifact)
        if not step.cached and not (heavy and site.send(step)):
            with site.alone(artifact):
                step.cached = site.take(artifact)
                if not step.cached:
                    with locked(now.runs / f".{lane(now.device)}.lock") if heavy else nullcontext():
                        _fill(step, body, given, now, now.launcher if heavy else Launcher())
        if step.cached:
            check(artifact)
        site.put(artifact)
        _close(artifact, now)
    step.wall_s = time.monotonic() - begun
    for display in now.displays:
        display.end(step)
    return not step.cached


def _fill(
    step: Step, body: Callable[..., Summary], given: Mapping[str, object], now: Session, launcher: Launcher
) -> None:
    begun = time.monotonic()
    folder = step.artifact.folder
    for parent in (parent for parents in step.parents.values() for parent in parents if not parent.done):
        now.site.take(parent)
    now.site.regain(step.artifact)
    run = Run(step, now, "", *resume.recover(folder))
    run.run_id = run_id = now.tracker.begin(step) if now.tracker else ""
    step.link = now.tracker.link(run_id) if now.tracker else ""
    try:
        summary = launcher.fill(run, body, given)
        record = _record(step, summary, time.monotonic() - begun, now)
        record["made_on"]["processes"] = launcher.processes
        if now.tracker:
            record |= now.tracker.end(run_id, step, record)
            (folder / RESUME).mkdir(exist_ok=True)
        write_json(folder / RECORD, record)
    except BaseException as error:
        if now.tracker and not step.artifact.done:
            now.tracker.fail(run_id, killed=not isinstance(error, Exception))
        raise


def _close(artifact: Artifact, now: Session) -> None:
    """Close the history of an artifact that is made, then take away what its making left.

    Where an attempt was killed before, this does it later; what has a history is left to a session that keeps one.
    """
    if artifact.closed or (now.tracker is None and "mlflow_run_id" in artifact.record()):
        return
    if now.tracker:
        now.tracker.finish(artifact)
    shutil.rmtree(artifact.folder / RESUME, ignore_errors=True)


def _record(step: Step, summary: Summary, wall_s: float, now: Session) -> dict[str, Json]:
    artifact = step.artifact
    return {
        "key": artifact.key,
        "name": artifact.name,
        "stage": artifact.stage,
        "version": step.version,
        "source": step.source,
        "fingerprint": artifact.fingerprint,
        "config": step.config,
        "parents": [
            {"argument": argument, "name": parent.name, "key": parent.key}
            for argument, parents in step.parents.items()
            for parent in parents
        ],
        "summary": summary,
        "files": file_digests(artifact.folder, without=RESUME),
        "wall_s": round(wall_s, 3),
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "made_on": {"device": now.device, "python": platform.python_version(), "isolation": now.isolation},
    }
