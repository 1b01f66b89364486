"""Run a recipe from the command line."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from data.disk import telling_when_full
from data.lineage import check
from flows.display import Watch
from flows.plan import FLOWS, closure, conclude, default_device, launcher_for, naming_dependents, plan
from flows.recipe import Recipe
from flows.server import prefect_for
from flows.shared import Installation
from tasks.stage import Session, session


def run(
    recipe: Recipe,
    runs: Path,
    device: str,
    plain: bool = False,
    save_every_s: float = 30.0,
    processes: int = 0,
    shared: Installation | None = None,
    until: Sequence[str] = (),
) -> Path:
    """Make what is not there yet; returns the path of `report.json`.

    `plain` calls the stages as plain functions: for a machine without Prefect and MLflow, whose history
    this run is then not part of. `until` names the stages that it ends with, of a plain run; all when empty.
    `processes` is how many heavy stages take; 0 is what this machine is set to.
    """
    begun = time.monotonic()
    if until and not plain:
        raise ValueError("--until is for --plain runs: on a server trigger the flow of that part, such as r1-zero")
    steps = plan(recipe, runs)
    wanted = closure(recipe, runs, until) if until else None
    total, steps = len(steps), [step for step in steps if wanted is None or step.artifact.key in wanted]
    watch = Watch(total)
    if all(step.artifact.closed for step in steps):
        with naming_dependents(recipe, runs):
            for step in steps:
                check(step.artifact)
                watch.end(step)
        return conclude(recipe, runs, steps, time.monotonic() - begun)
    runs.mkdir(parents=True, exist_ok=True)
    with telling_when_full(runs):
        if not plain:
            with prefect_for(runs, shared):
                from flows import served

                served.audience.set([watch])
                return served.r1(recipe, device, save_every_s, processes)
        where = device or default_device()
        launcher = launcher_for(processes, where)
        opened = Session(
            runs, "plain", where, recipe.allow_rlimit, [watch],
            launcher=launcher, save_every_s=save_every_s, wanted=wanted,
        )  # fmt: skip
        with session(opened), naming_dependents(recipe, runs):
            FLOWS[recipe.flow](recipe)
        return conclude(recipe, runs, opened.steps, time.monotonic() - begun)
