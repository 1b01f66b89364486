"""The red team against a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.sandbox import choose, refuse
from flows.recipe import Recipe
from tasks import redteam


def lines(recipe: Recipe, runs: Path) -> Iterator[tuple[str, redteam.State | None]]:
    """Try the corpus on every setting of the recipe's rewards; yields lines, with the state that each tells of.

    Raises ValueError where programs cannot be shut in.
    """
    isolation = choose(recipe.allow_rlimit)
    if isolation == "none":
        raise ValueError(refuse())
    findings = redteam.examine(isolation)
    redteam.keep(runs, isolation, findings)
    stages = {"zero": recipe.zero, "reasoning": recipe.reasoning, "alignment": recipe.alignment,
              "student_rl": recipe.student_rl}  # fmt: skip
    named = {name: (config.template, config) for name, config in stages.items()}
    yield f"isolation: {isolation}", None
    for (template, weights), names in redteam.settings(named).items():
        parts = ", ".join(f"{field.removesuffix('_weight')} {value:g}" for field, value in weights if value)
        yield f"\n{', '.join(names)}: template {template}; {parts}", None
        rows = redteam.judge(findings, template, weights, isolation)
        for line, row in zip(redteam.table(rows), (None, *rows), strict=True):
            yield line, row.state if row else None
