"""Kill `r1 run tiny` again and again, go on each time, and compare with a run that nobody disturbed.

    python -m tests.chaos --kills 50 --seed 0

The moments come from a seeded schedule that is spread over all stages. What is killed is the run itself, all of
its processes at once, or one of its children and soon after the run. At the end every artifact has the files of
the undisturbed run, and MLflow has every metric of every step once.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient

from data.lineage import RECORD, TIMES, Json, read_json
from tasks.tracking import store_uri

ROOT = Path(__file__).parent.parent
WHAT = ("run", "all", "child")
LONGEST_S = 600


@dataclass(frozen=True)
class Kill:
    """A moment: a stage, how far into it (as a share of its time), and what is killed."""

    stage: str
    share: float
    what: str


def schedule(stages: list[dict[str, Json]], kills: int, seed: int) -> list[Kill]:
    """Spread kills over the stages in their order; a stage that takes long is hit no more often than others."""
    rng = random.Random(seed)
    order = rng.sample(range(len(stages)), len(stages))
    chosen = sorted(order[i % len(stages)] for i in range(kills))
    return [Kill(stages[i]["name"], rng.random(), rng.choice(WHAT)) for i in chosen]


def start(runs: Path, log: Path, settings: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Begin a run in a session of its own, so that all of it can be killed; `settings` go into its environment."""
    command = [sys.executable, "-m", "flows", "run", "tiny", "--runs", str(runs), "--save-every", "0"]
    with log.open("ab") as output:
        environment = os.environ | (settings or {})
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )


def descendants(pid: int) -> list[int]:
    """Processes that come from this one, children before grandchildren."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = list(parents.get(pid, []))
    for child in found:
        found += parents.get(child, [])
    return found


def strike(process: subprocess.Popen[bytes], kill: Kill, rng: random.Random) -> list[int]:
    """Kill, and return what must be gone soon after. A run that lost a child has some time to go on, then dies too."""
    family = descendants(process.pid)
    if kill.what == "child" and family:
        _kill([rng.choice(family)])
        time.sleep(3 * rng.random())
        family = descendants(process.pid)
    _kill([process.pid, *(family if kill.what == "all" else ())])
    return family


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def alive(pids: list[int]) -> list[int]:
    """Those that still run."""
    return [pid for pid in pids if Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in _status(pid)]


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "\nState:\tZ"


def wait_until_begun(process: subprocess.Popen[bytes], folder: Path) -> bool:
    """Wait until a stage's folder is being filled. False when the run ended, or the stage was made, before."""
    limit = time.monotonic() + LONGEST_S
    while time.monotonic() < limit:
        if process.poll() is not None or (folder / RECORD).is_file():
            return False
        if folder.is_dir():
            return True
        time.sleep(0.005)
    raise TimeoutError(f"{folder.name} did not begin in {LONGEST_S} s")


def disturb(
    runs: Path,
    log: Path,
    stages: list[dict[str, Json]],
    kills: list[Kill],
    seed: int,
    settings: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Run and kill by the schedule; yields a line on each kill."""
    rng = random.Random(seed + 1)
    by_name = {stage["name"]: stage for stage in stages}
    for number, kill in enumerate(kills, start=1):
        process = start(runs, log, settings)
        stage = by_name[kill.stage]
        begun = wait_until_begun(process, runs / f"{stage['stage']}-{stage['fingerprint']}")
        time.sleep(kill.share * stage["wall_s"] if begun else 0)
        left = strike(process, kill, rng)
        process.wait()
        limit = time.monotonic() + 15
        while alive(left) and time.monotonic() < limit:
            time.sleep(0.1)
        survivors = f", {len(alive(left))} SURVIVED" if alive(left) else ""
        state = f"{100 * kill.share:.0f} % into" if begun else "after"
        yield f"{number:>3} {kill.what:<5} {state} {kill.stage}{survivors}"


def differences(whole: Path, disturbed: Path, stages: list[dict[str, Json]], store: str = "") -> list[str]:
    """What is not the same in the end: files of artifacts, times left out, and metrics in MLflow.

    `store` is where the disturbed run's metrics are, when they are not in its folder.
    """
    stores = (store_uri(whole), store or store_uri(disturbed))
    found = []
    for stage in stages:
        key = f"{stage['stage']}-{stage['fingerprint']}"
        files = [read_json(runs / key / RECORD)["files"] for runs in (whole, disturbed)]
        ours, theirs = ({name: digest for name, digest in each.items() if name != TIMES} for each in files)
        found += [
            f"{stage['name']}: {name}" for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
        ]
        histories = [metrics(each, key) for each in stores]
        found += [
            f"{stage['name']}: metric {name}"
            for name in histories[0].keys() | histories[1].keys()
            if histories[0].get(name) != histories[1].get(name)
        ]
    return found


def metrics(store: str, key: str) -> dict[str, list[tuple[int, float | None]]]:
    """Every metric of an artifact's finished run as (step, value); of times the steps only."""
    client = MlflowClient(store)
    ids = [each.experiment_id for each in client.search_experiments()]
    done = client.search_runs(ids, f"tags.artifact = '{key}' and attributes.status = 'FINISHED'")
    assert len(done) == 1, f"{key} has {len(done)} finished runs in {store}"
    histories = {}
    for name in done[0].data.metrics:
        if name != "used_by":
            history = client.get_metric_history(done[0].info.run_id, name)
            timed = name.endswith("_time")
            histories[name] = [(point.step, None if timed else point.value) for point in history]
    return histories


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the runs are kept; a temporary folder when left out")
    options = parser.parse_args(words)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    whole, disturbed, log = folder / "whole", folder / "disturbed", folder / "log.txt"
    if start(whole, log).wait() != 0:
        raise SystemExit(f"the undisturbed run failed; see {log}")
    stages = read_json(whole / "tiny" / "report.json")["stages"]
    kills = schedule(stages, options.kills, options.seed)
    lines = []
    for line in disturb(disturbed, log, stages, kills, options.seed):
        print(line, flush=True)
        lines.append(line)
    if start(disturbed, log).wait() != 0:
        raise SystemExit(f"the run could not go on after the last kill; see {log}")
    found = differences(whole, disturbed, stages) + [line for line in lines if "SURVIVED" in line]
    print("\n".join(found) or f"{len(kills)} kills; all {len(stages)} artifacts and their metrics are the same")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
