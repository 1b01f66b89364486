"""`r1 curate`: another set from the trajectories that a recipe has, without sampling again; and thresholds swept."""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from data.disk import telling_when_full
from data.lineage import Table, read_json, sha256_of, write_json
from data.quality import read_truth
from flows.display import Watch
from flows.inspect import inspect_trajectories
from flows.plan import plan, reasons
from flows.recipe import Recipe, settings_of
from flows.server import prefect_for
from tasks.collect import collect, collect_general
from tasks.curate import CurateConfig, curate
from tasks.curve import CurveConfig, curve
from tasks.stage import Session, Step, session
from tasks.trajectories import TrajectoriesConfig, take

NO_MODELS: Final = {name: {"path": f"seed:{name}"} for name in ("base", "student")}
"""Bases for a recipe that names none, since a set of one's own trajectories needs none."""

PARTS: Final = ("rejection", "cold")
WHAT_IF: Final = "what_if"
"""Marks the report of a build that was asked for, which another may replace; that of a recipe's run has no such key."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One what-if: which set of a recipe, what it is called, and the settings of each build.

    With a `sweep` there is a build for each value of its setting, under that value; else one, under "".
    """

    recipe: Recipe
    part: str
    name: str
    builds: dict[str, CurateConfig]
    sweep: CurveConfig | None = None

    def make(self, runs: Path) -> None:
        """Call the stages, in a session: each build from the trajectories that are there, and the curve."""
        sampled = take("rejection_samples", self.own) if self.own else samples_of(self.recipe, self.part, runs)
        general = collect_general("general", self.recipe.general)
        heldout = collect("heldout", self.recipe.heldout)
        made = {
            value: curate(self._station(value), sampled, general, heldout, config)
            for value, config in self.builds.items()
        }
        if self.sweep:
            curve("curve", made, self.sweep)

    @property
    def own(self) -> TrajectoriesConfig | None:
        """A person's own trajectories, where the set is built from such."""
        return self.recipe.rejection.trajectories if self.part == "rejection" else None

    def _station(self, value: str) -> str:
        return f"{self.part}_rows" + (f"[{self.sweep.setting}={value}]" if self.sweep else "")


def ask(
    recipe: Recipe, runs: Path, part: str = "rejection", sweep: str = "", truth: Path | None = None, name: str = ""
) -> Asked:
    """Read what is asked for. Raises ValueError for a part, setting, value or name that cannot be."""
    if part not in PARTS:
        raise ValueError(f"--part must be out of {', '.join(PARTS)}, got {part!r}")
    if truth and not sweep:
        raise ValueError("--truth is what a --sweep is measured by, and there is none")
    name = _free(name or f"{recipe.name}-what-if", recipe, runs)
    if part == "rejection" and recipe.rejection.trajectories:
        inspect_trajectories(recipe)
    else:
        samples_of(recipe, part, runs)
    config = getattr(recipe, part).curate
    if not sweep:
        return Asked(recipe, part, name, {"": config})
    setting, values = _swept(sweep)
    builds = {str(value): _changed(config, setting, value, sweep) for value in values}
    if truth:
        read_truth(truth)
    digest = sha256_of(truth) if truth else ""
    return Asked(recipe, part, name, builds, CurveConfig(setting=setting, truth=truth, digest=digest))


def samples_of(recipe: Recipe, part: str, runs: Path) -> Table:
    """The trajectories that a recipe's set is built from. Raises ValueError where nobody has sampled them yet."""
    steps = {step.artifact.name: step for step in plan(recipe, runs)}
    step = steps[f"{part}_samples"]
    if not step.artifact.done:
        because = "".join(f"; {reason}" for reason in reasons(step, runs, recipe.name)[:1])
        raise ValueError(
            f"{step.artifact.name} ({step.artifact.key}) is not there, and curate samples nothing: "
            f"`r1 run {recipe.name}` makes it{because}"
        )
    assert isinstance(step.artifact, Table)
    return step.artifact


def run(asked: Asked, runs: Path, plain: bool) -> Path:
    """Make what was asked for; returns the folder of the build, or of the curve."""
    with telling_when_full(runs):
        watch = Watch(len(asked.builds) + 2 + bool(asked.sweep) + bool(asked.own))
        if plain:
            begun = time.monotonic()
            with session(Session(runs, "plain", "cpu", asked.recipe.allow_rlimit, [watch])) as opened:
                asked.make(runs)
            return conclude(asked, runs, opened.steps, time.monotonic() - begun)
        with prefect_for(runs, None):
            from flows import served

            served.audience.set([watch])
            return served.what_if(asked)


def conclude(asked: Asked, runs: Path, steps: Sequence[Step], wall_s: float) -> Path:
    """Note under the name what was made, so that `NAME/rejection_rows` is found and gc leaves it."""
    folder = runs / asked.name
    folder.mkdir(parents=True, exist_ok=True)
    stages = [
        {"name": step.artifact.name, "stage": step.artifact.stage, "fingerprint": step.artifact.fingerprint,
         "wall_s": round(step.wall_s, 2), "cached": step.cached}
        for step in steps
    ]  # fmt: skip
    write_json(folder / "recipe.json", settings_of(asked.recipe))
    report = {"recipe": asked.recipe.name, WHAT_IF: True, "wall_s": round(wall_s, 2), "stages": stages}
    write_json(folder / "report.json", report)
    return steps[-1].artifact.folder


def _free(name: str, recipe: Recipe, runs: Path) -> str:
    """The name, which must be fit for a folder and be no recipe's. Raises ValueError otherwise."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError(f"--name must be letters, digits, dashes, dots and underscores, got {name!r}")
    report = runs / name / "report.json"
    if name == recipe.name or (report.is_file() and WHAT_IF not in read_json(report)):
        raise ValueError(f"--name {name}: a recipe is called so; choose another name for the build")
    return name


def _swept(sweep: str) -> tuple[str, list[Any]]:
    """Read `filter.threshold=a,b,c`."""
    setting, _, literals = sweep.partition("=")
    values = [_value(literal.strip()) for literal in literals.split(",") if literal.strip()]
    if not setting or len(values) < 2 or len(set(map(str, values))) < len(values):
        raise ValueError(f"--sweep {sweep}: write it as filter.threshold=a,b,c, with two different values or more")
    return setting.strip(), values


def _value(literal: str) -> Any:
    try:
        return tomllib.loads(f"value = {literal}")["value"]
    except tomllib.TOMLDecodeError:
        return literal


def _changed(config: CurateConfig, setting: str, value: Any, sweep: str) -> CurateConfig:
    """The settings of a build with one changed: `max_rows`, or `repetition.ngram` of the filter of that name."""
    raw = config.model_dump(mode="json")
    owner, _, key = setting.rpartition(".")
    table = raw
    if owner:
        named = {each["name"]: each for each in raw["filters"]}
        if owner not in named:
            raise ValueError(f"--sweep {sweep}: no filter {owner!r} in this build; there are {', '.join(named)}")
        table = named[owner]
    if key not in table or key in ("name", "filters"):
        allowed = ", ".join(each for each in table if each not in ("name", "filters"))
        raise ValueError(f"--sweep {sweep}: no setting {key!r}; allowed are {allowed or 'none'}")
    table[key] = value
    try:
        return type(config).model_validate(raw)
    except ValidationError as error:
        raise ValueError(f"--sweep {sweep}: {setting} = {value!r}: {error.errors()[0]['msg']}") from None
