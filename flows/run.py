"""Run a recipe from the command line."""

from __future__ import annotations

import time
from pathlib import Path

from data.disk import telling_when_full
from data.lineage import check
from flows.display import Watch
from flows.plan import FLOWS, conclude, default_device, naming_dependents, plan
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
    shared: Installation | None = None,
) -> Path:
    """Make what is not there yet; returns the path of `report.json`.

    `plain` calls the stages as plain functions: for a machine without Prefect and MLflow, whose history
    this run is then not part of.
    """
    begun = time.monotonic()
    steps = plan(recipe, runs)
    watch = Watch(len(steps))
    if all(step.cached for step in steps):
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
                return served.r1(recipe, device, save_every_s)
        where = device or default_device()
        opened = Session(runs, "plain", where, recipe.allow_rlimit, [watch], save_every_s=save_every_s)
        with session(opened), naming_dependents(recipe, runs):
            FLOWS[recipe.flow](recipe)
        return conclude(recipe, runs, opened.steps, time.monotonic() - begun)
