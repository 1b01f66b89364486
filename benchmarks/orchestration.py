"""What orchestration costs, and how long people wait.

python -m benchmarks.orchestration           # all but `run`, some minutes
python -m benchmarks.orchestration run       # what they add to a whole recipe: 20 minutes
python -m benchmarks.orchestration up        # from `r1 up` to a submitted run that runs
python -m benchmarks.orchestration trace     # a row among a million, up and down
python -m benchmarks.orchestration save      # the share of an RL stage that saving its state takes
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl

from benchmarks.results import record, seconds
from data.lineage import read_json, write_json
from data.store import write_table
from flows.recipe import load
from flows.server import free_port
from tasks import stage

PACKAGES = ("prefect", "mlflow")
ROWS = 1_000_000
R1 = [sys.executable, "-m", "flows"]


def run(recipe: str = "micro") -> None:
    """What Prefect and MLflow add to a recipe, by the clock.

    The stages of two runs differ by more than that: on a shared machine by a fifth. So what is added is timed itself:
    all that a flow is busy with outside of its stages' bodies, and calls within, less the same of plain functions.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain, flow = (_timed(recipe, Path(folder) / name, name) for name in ("plain", "flow"))
    start, within = flow.start - plain.start, flow.within - plain.within
    stages = flow.beside - plain.beside - start + within
    print(f"{recipe}: {plain}, {flow}")
    share = (start + stages) / plain.wall
    record(f"orchestration: share of {recipe}", share, unit="of the plain run", goal="<= 0.05", packages=PACKAGES)
    record(f"orchestration: start of {recipe}", start, unit="s", goal="reported", packages=PACKAGES)
    each = stages / flow.stages
    record(f"orchestration: a stage of {recipe}", each, unit="s", goal="<= 1", packages=PACKAGES)


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of a run, of what is outside of its stages, of that until the first, and of calls within stages."""

    wall: float
    beside: float
    start: float
    within: float
    stages: int


def _timed(recipe: str, runs: Path, how: str) -> Times:
    command = [sys.executable, "-m", "benchmarks.orchestration", "watched", recipe, str(runs), how]
    begun = time.monotonic()
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    wall = time.monotonic() - begun
    bodies = [float(read_json(path)["wall_s"]) for path in runs.glob("*/record.json")]
    start, within = json.loads(said.splitlines()[-1])
    return Times(wall, wall - sum(bodies), start, within, len(bodies))


class Timed:
    """Something whose calls by some names are timed, each by its own."""

    def __init__(self, what: Any, names: Sequence[str], spent: dict[str, float]) -> None:
        self.what, self.names, self.spent = what, names, spent

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.what, name)
        if name not in self.names:
            return found

        def call(*words: Any, **named: Any) -> Any:
            begun = time.monotonic()
            try:
                return found(*words, **named)
            finally:
                self.spent[name] = self.spent.get(name, 0.0) + time.monotonic() - begun

        return call


def watched(recipe: str, runs: str, how: str) -> None:
    """Run a recipe, `plain` or as a `flow`; the last line says the seconds until its first stage and within stages."""
    begun, spent = time.monotonic(), dict[str, float]()
    opening = stage.session

    @contextmanager
    def session(opened: stage.Session) -> Iterator[stage.Session]:
        if opened.mode != "plan":
            spent["start"] = time.monotonic() - begun
            if opened.tracker:
                opened.tracker = Timed(opened.tracker, ("begin", "log", "show", "tag"), spent)
            opened.displays = [Timed(each, ("advance", "warn"), spent) for each in opened.displays]
        with opening(opened):
            yield opened

    stage.session = session
    from flows.run import run as make

    make(load(recipe, ()), Path(runs), "", plain=how == "plain")
    print(json.dumps([spent.pop("start"), sum(spent.values())]))


def up(rounds: int = 3) -> None:
    """From `r1 up` on an empty folder to a flow run, submitted as soon as it can be, that says Running."""
    waits = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            port = free_port()
            ports = ["--prefect-port", str(port), "--mlflow-port", str(free_port())]
            begun = time.monotonic()
            process = subprocess.Popen([*R1, "up", "tiny", "--runs", folder, *ports], stdout=subprocess.DEVNULL)
            try:
                api = f"http://127.0.0.1:{port}/api"
                deployment = _until(lambda api=api: _ask(f"{api}/deployments/name/r1/tiny"))
                flow_run = _ask(f"{api}/deployments/{deployment['id']}/create_flow_run", {})["id"]
                _until(lambda api=api, run=flow_run: _ask(f"{api}/flow_runs/{run}")["state_name"] == "Running")
                waits.append(time.monotonic() - begun)
            finally:
                process.terminate()
                process.wait()
    record("from r1 up to a submitted run that runs", median(waits), unit="s", goal="<= 40", packages=PACKAGES)


def _ask(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, {"content-type": "application/json"})) as answer:
        return json.load(answer)


def _until(what: Any) -> Any:
    while True:
        try:
            if found := what():
                return found
        except OSError:
            pass
        time.sleep(0.1)


def trace(rounds: int = 5) -> None:
    """`r1 trace` of a row of a million, to the policy and seed that made it, and down to what learned from it."""
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        _a_million_rows(runs)
        row = f"order/{ROWS - 7:07d}/3"
        for name, words in (
            ("up, to its policy", [f"curate-000000000002/{row}"]),
            ("down, to what learned from it", [f"generate-000000000001/{row}", "--down"]),
        ):
            command = [*R1, "trace", *words, "--runs", folder]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            assert row in told or "learned from it" in told, told
            times = [
                seconds(lambda command=command: subprocess.run(command, check=True, capture_output=True))
                for _ in range(rounds)
            ]
            record(
                f"trace of one row among a million, {name}", median(times), unit="s", goal="<= 2", packages=["duckdb"]
            )


def _a_million_rows(runs: Path) -> None:
    """A policy, what it sampled, the set made of that, and the policy fine-tuned on the set."""
    number = pl.int_range(ROWS, eager=True)
    ids = pl.select(pl.format("order/{}/3", number.cast(pl.String).str.zfill(7))).to_series().alias("id")
    line = pl.select(pl.format("{} plus {} is {}, and so on. ", number, number * 7, number * 8)).to_series()
    text = pl.select(pl.concat_str([pl.lit(line)] * 30)).to_series()  # about a kilobyte
    sampled = pl.DataFrame({"id": ids, "problem_id": ids.str.head(13), "completion": text, "reward": number / ROWS})
    rows = pl.DataFrame({"id": ids, "completion": text, "source": pl.repeat("trajectory", ROWS, eager=True)})
    for key, name, table, frame, parents in (
        ("reinforce-000000000000", "dev2", "", None, {}),
        ("generate-000000000001", "samples", "trajectories", sampled, {"policy": "reinforce-000000000000"}),
        ("curate-000000000002", "rows", "rows", rows, {"trajectories": "generate-000000000001"}),
        ("finetune-000000000003", "dev3", "", None, {"rows": "curate-000000000002"}),
    ):
        (runs / key / ("" if table else "policy")).mkdir(parents=True)
        if frame is not None:
            write_table(runs / key / f"{table}.parquet", frame)
        stage, _, fingerprint = key.partition("-")
        write_json(
            runs / key / "record.json",
            {
                "key": key, "name": name, "stage": stage, "version": 1, "fingerprint": fingerprint, "summary": {},
                "config": {"config": {"seed": 0}}, "files": {}, "wall_s": 0,
                "parents": [{"argument": argument, "name": argument, "key": at} for argument, at in parents.items()],
            },
        )  # fmt: skip


def save() -> None:
    """The time that R1-Zero of `micro` spends on saving its state at the shipped interval."""
    from flows import recipe as recipes
    from flows.plan import FLOWS, closure
    from tasks import resume
    from tasks.stage import Session, session

    spent: list[float] = []
    write = resume.save

    def timed(folder: Path, state: resume.State) -> None:
        spent.append(seconds(lambda: write(folder, state)))

    resume.save = timed
    recipe = recipes.load("micro")
    with tempfile.TemporaryDirectory() as folder:
        wanted = closure(recipe, Path(folder), ["zero"])
        opened = Session(Path(folder), "plain", allow_rlimit=recipe.allow_rlimit, wanted=wanted)
        with session(opened):
            FLOWS[recipe.flow](recipe)
    wall = next(step.wall_s for step in opened.steps if step.artifact.name == "zero")
    print(f"{len(spent)} states in {wall:.0f} s")
    record("saving the state of an RL stage", sum(spent) / wall, unit="of its time", goal="<= 0.03", packages=["torch"])


def main(words: list[str]) -> None:
    if words[:1] == ["watched"]:
        watched(*words[1:])
        return
    for name in words or ["up", "trace", "save"]:
        {"run": run, "up": up, "trace": trace, "save": save}[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
