"""What a recipe would make and why, and what became of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data.depot import Depot
from data.lineage import RECORD, BrokenArtifact, Json, Report, read_json, read_record, write_json
from data.lock import locked
from flows import r1 as figure
from flows.recipe import Recipe, settings_of
from tasks.stage import Launcher, Session, Step, session

FLOWS: dict[str, Callable[[Recipe], object]] = {"r1": figure.r1, "bases": figure.bases}


def plan(recipe: Recipe, runs: Path) -> list[Step]:
    """Say what a recipe would make, in order, without making anything."""
    with session(Session(runs=runs, mode="plan")) as planned:
        FLOWS[recipe.flow](recipe)
    return planned.steps


def closure(recipe: Recipe, runs: Path, targets: Sequence[str], with_parents: bool = True) -> frozenset[str]:
    """Keys of the artifacts of these names and of all that they are made from, or of them alone.

    Raises ValueError for an unknown name.
    """
    steps = plan(recipe, runs)
    by_key = {step.artifact.key: step for step in steps}
    found: set[str] = set()
    left = [step.artifact.key for step in named(steps, targets, recipe.name)]
    while left:
        key = left.pop()
        if key not in found:
            found.add(key)
            if with_parents:
                left += [parent.key for parents in by_key[key].parents.values() for parent in parents]
    return frozenset(found)


@contextmanager
def naming_dependents(recipe: Recipe, runs: Path) -> Iterator[None]:
    """Let the error about a broken artifact say what stands on it, and what to do."""
    try:
        yield
    except BrokenArtifact as error:
        steps = plan(recipe, runs)
        found = {error.name}
        for step in steps:
            if any(parent.name in found for parents in step.parents.values() for parent in parents):
                found.add(step.artifact.name)
        names = [step.artifact.name for step in steps if step.artifact.name in found - {error.name}]
        on_it = f"; {', '.join(names)} stand on it" if names else ""
        raise ValueError(f"{error}{on_it}. `r1 run {recipe.name} --remake {error.name}` makes it again") from None


def forget(recipe: Recipe, runs: Path, names: Sequence[str], depot: Depot | None = None) -> None:
    """Delete artifacts of a recipe by name, here and in the depot, to be made again.

    Raises ValueError for an unknown name.
    """
    for step in named(plan(recipe, runs), names, recipe.name) if names else ():
        with locked(runs / f".{step.artifact.key}.lock"):
            if depot is not None:
                depot.drop(step.artifact)
            shutil.rmtree(step.artifact.folder, ignore_errors=True)


def named(steps: Sequence[Step], names: Sequence[str], recipe: str) -> list[Step]:
    """The steps of these names. Raises ValueError for an unknown one."""
    by_name = {step.artifact.name: step for step in steps}
    if unknown := [name for name in names if name not in by_name]:
        raise ValueError(f"{recipe} has no stage {unknown[0]!r}; it has {', '.join(by_name)}")
    return [by_name[name] for name in names]


def conclude(recipe: Recipe, runs: Path, steps: Sequence[Step], wall_s: float) -> Path:
    """Write `report.json` and the page of a run: of every stage that is done, made by this run or before."""
    folder = runs / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    report: dict[str, Json] = {
        "recipe": recipe.name,
        "wall_s": round(wall_s, 2),
        "stages": [
            {"name": step.artifact.name, "stage": step.artifact.stage, "fingerprint": step.artifact.fingerprint,
             "wall_s": round(step.wall_s, 2), "cached": step.cached}
            for step in steps if step.artifact.done
        ],
    }  # fmt: skip
    last = steps[-1].artifact
    if isinstance(last, Report) and last.done:
        report["models"] = read_json(last.folder / "models.json")
        report["findings"] = read_json(last.folder / "findings.json")
        shutil.copyfile(last.folder / "report.html", folder / "report.html")
    write_json(folder / "recipe.json", settings_of(recipe))
    write_json(folder / "report.json", report)
    return folder / "report.json"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a stage would run: what differs from the artifact of the same name of the last run."""

    what: str
    before: Json
    after: Json

    def __str__(self) -> str:
        return f"{self.what}: {self.before} -> {self.after}" if self.before != self.after else self.what


def reasons(step: Step, runs: Path, recipe: str) -> list[Reason]:
    """Compare a step with what the recipe's last run made under its name."""
    last = runs / recipe / "report.json"
    if not last.is_file():
        return []
    made = {entry["name"]: entry for entry in read_json(last)["stages"]}.get(step.artifact.name)
    if made is None:
        return [Reason("the last run had no such stage", None, None)]
    folder = runs / f"{made['stage']}-{made['fingerprint']}"
    if not (folder / RECORD).is_file():
        return [Reason("its artifact was deleted", None, None)]
    record = read_record(folder)
    found = [Reason("stage version", record["version"], step.version)] if record["version"] != step.version else []
    found += differences(record["config"], step.config, "")
    before = {(p["argument"], p["name"]): p["key"] for p in record["parents"]}
    after = {(key, each.name): each.key for key, each_list in step.parents.items() for each in each_list}
    return found + [
        Reason(f"parent {name}", before.get((argument, name)), key)
        for (argument, name), key in after.items()
        if before.get((argument, name)) != key
    ]


def outdated(step: Step) -> bool:
    """Whether a stage's source has changed since its artifact was made, while its version has not."""
    if not step.artifact.done:
        return False
    record = step.artifact.record()
    return bool(record["version"] == step.version and record.get("source", step.source) != step.source)


def differences(before: Json, after: Json, path: str) -> list[Reason]:
    """Every setting that two tables do not share, by its dotted name below `path`."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted(before.keys() | after.keys())
        return [
            found
            for key in keys
            for found in differences(before.get(key), after.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if before == after else [Reason(path, before, after)]


def default_device() -> str:
    """That of `R1_DEVICE`; without it `cuda` where there is one, else `cpu`."""
    import torch

    return usable(os.environ.get("R1_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu"))


NO_DEVICE = "none"
"""`R1_DEVICE` of a machine of a shared installation that leaves heavy stages to others."""


def placed(device: str, shared: bool) -> tuple[str, str]:
    """Where stages compute: the device here, and the kind of device elsewhere that heavy stages are sent to.

    The kind is empty where they are made here, and `any` where a machine without a device was asked for none in
    particular. Raises ValueError for a device that is not here, outside of a shared installation.
    """
    own = os.environ.get("R1_DEVICE", "")
    if shared and own == NO_DEVICE:
        return "cpu", device.partition(":")[0] or "any"
    if not device:
        return default_device(), ""
    try:
        return usable(device), ""
    except ValueError:
        if not shared:
            raise
        return default_device(), device.partition(":")[0]


def launcher_for(processes: int, device: str, elsewhere: str = "") -> Launcher:
    """How heavy stages are run: in so many processes, or in as many as `R1_PROCESSES` says, or in one.

    What is sent `elsewhere` is run there as is asked there. Raises ValueError for more processes than there are
    processors or, with a GPU each, GPUs here.
    """
    asked = str(processes or os.environ.get("R1_PROCESSES") or 1)
    if not asked.isdecimal() or int(asked) < 1:
        raise ValueError(f"processes = {asked!r} is no number from 1 on")
    size = int(asked)
    if size == 1 or elsewhere:
        return Launcher()
    if device not in ("cpu", "cuda"):
        raise ValueError(f"{size} processes take a GPU each: give the device as cuda instead of {device}")
    import torch

    gpus, processors = torch.cuda.device_count(), len(os.sched_getaffinity(0))
    most, what = (gpus, "GPUs") if device == "cuda" else (processors, "processors")
    if size > most:
        raise ValueError(f"{size} processes are more than the {what} of this machine, {most}")
    from tasks.ranked import Ranked

    return Ranked(size)


def given_device(device: str) -> str:
    """The device that a machine gives to a shared installation: the one named, `none`, or the best there is."""
    return device if device == NO_DEVICE else usable(device) if device else default_device()


def usable(device: str) -> str:
    """Return the device. Raises ValueError where this machine has none of that name."""
    import torch

    count = torch.cuda.device_count()
    there = ["cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count))]
    if device not in there:
        raise ValueError(f"no device {device!r} here; there are {', '.join(there)}")
    return device
