"""Recipes whose base reads on first: what stands on what, whom seeds reach, and which mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.text import python_version
from flows.plan import plan
from flows.recipe import load, reseeded
from flows.run import run
from tasks.collect import digest_of
from tasks.stage import Step
from tests.flows.beginner import beginner

TEXT = f"""
[base]
path = "seed:base"
[base.midtrain]
max_steps = 3
{beginner(512)}
[student.midtrain]
max_steps = 4
[direct]
template = "zero"
max_steps = 6
"""


def written(folder: Path, text: str = TEXT) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def steps(folder: Path, text: str = TEXT, *changes: str) -> dict[str, Step]:
    return {step.artifact.name: step for step in plan(load(written(folder, text), changes), folder / "runs")}


def parents(step: Step) -> set[str]:
    return {parent.name for parents in step.parents.values() for parent in parents}


def test_everything_stands_on_the_base_that_has_read_on_but_direct_rl(tmp_path: Path) -> None:
    made = steps(tmp_path)
    assert parents(made["base"]) == {"base_untouched"}
    for name in ("zero", "dev1", "dev3", "base_evaluation"):
        assert "base" in parents(made[name])
        assert "base_untouched" not in parents(made[name])
    assert "base_untouched" in parents(made["direct"])
    assert parents(made["base_untouched_evaluation"]) == {"base_untouched", "heldout"}
    assert parents(made["student_base_untouched"]) == {"base_untouched"}
    assert parents(made["student_base"]) == {"student_base_untouched"}
    assert {"direct_evaluation", "base_untouched_evaluation"} <= parents(made["report"])
    assert "direct" in parents(made["report"])


def test_only_what_uses_a_setting_is_made_anew(tmp_path: Path) -> None:
    before = {name: step.artifact.key for name, step in steps(tmp_path).items()}
    longer = {name: step.artifact.key for name, step in steps(tmp_path, TEXT, "base.midtrain.max_steps=5").items()}
    assert {name for name in before if before[name] == longer[name]} == {
        "problems", "heldout", "general", "base_untouched", "student_base_untouched", "student_base", "direct",
        "base_untouched_evaluation", "direct_evaluation", "student_rl", "student_base_evaluation",
        "student_rl_evaluation",
    }  # fmt: skip
    without = TEXT[: TEXT.index("[direct]")]
    plainer = {name: step.artifact.key for name, step in steps(tmp_path, without).items()}
    assert before.keys() - plainer.keys() == {"direct", "direct_evaluation", "base_untouched_evaluation"}
    assert {name for name in plainer if plainer[name] != before[name]} == {"report"}


def test_seeds_reach_what_makes_a_base_and_leave_it_alone_between_seeds(tmp_path: Path) -> None:
    recipe = load(written(tmp_path), ["seed=7", "num_seeds=2"])
    assert recipe.direct is not None
    assert recipe.base.midtrain is not None
    assert recipe.student.initialise is not None
    assert (recipe.base.midtrain.seed, recipe.student.initialise.seed, recipe.direct.seed) == (7, 7, 7)
    assert reseeded(recipe, 1).zero.seed == 8
    names = [step.artifact.name for step in plan(recipe, tmp_path / "runs")]
    assert names.count("base") == names.count("direct") == names.count("zero") == 1
    assert {"zero_seed8", "report_seed8", "average"} <= set(names)
    assert not {"base_seed8", "direct_seed8"} & set(names)


def test_the_text_bears_identity_by_what_it_is(tmp_path: Path) -> None:
    recipe = load(written(tmp_path))
    assert recipe.base.midtrain is not None
    assert recipe.base.midtrain.digest == python_version()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own.txt").write_text("some words", encoding="utf-8")
    own = [load(written(tmp_path), [f"base.midtrain.path={tmp_path / name / 'own.txt'}"]) for name in ("one", "other")]
    assert own[0].base.midtrain is not None
    assert own[0].base.midtrain.digest == digest_of(tmp_path / "one" / "own.txt")
    keys = [[step.artifact.key for step in plan(recipe, tmp_path / "runs")] for recipe in own]
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["base.midtrain.path=nowhere.txt"], "--set base.midtrain.path: base.midtrain.path: no such file"),
        (["base.midtrain.text_share=1"], "--set base.midtrain.text_share: base.midtrain.text_share = 1: input should"),
        (["base.midtrain.mixture.families={chain_sum=1}"],
         "--set base.midtrain.mixture.families: base.midtrain.mixture: families must be out of chain, order"),
        (["base.midtrain.maxsteps=1"],
         "--set base.midtrain.maxsteps: unknown key 'maxsteps'; allowed are balance_alpha"),
        (["student.path=seed:student"], "--set student.path: student: a base has either a path"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(tmp_path: Path, changes: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        load(written(tmp_path), changes)


def test_a_base_is_no_beginner_and_direct_rl_needs_a_base_that_reads_on(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"base.initialise: only a student begins from random weights"):
        load(written(tmp_path, TEXT.replace('path = "seed:base"', "[base.initialise]\narchitecture = {}")))
    with pytest.raises(ValueError, match=r"direct: without \[base.midtrain\] it is what zero is"):
        load(written(tmp_path, TEXT.replace("[base.midtrain]\nmax_steps = 3\n", "")))


def test_a_plain_run_ends_with_the_stages_that_were_asked_for(tmp_path: Path) -> None:
    recipe = load(written(tmp_path), ["problems.count=20", "problems.general_count=20", "heldout.count=4"])
    run(recipe, tmp_path / "runs", "cpu", plain=True, until=["heldout", "student_base_untouched"])
    done = {step.artifact.name for step in plan(recipe, tmp_path / "runs") if step.artifact.done}
    assert done == {"heldout", "base_untouched", "student_base_untouched"}
    with pytest.raises(ValueError, match="--until is for --plain runs"):
        run(recipe, tmp_path / "runs", "cpu", until=["heldout"])
    with pytest.raises(ValueError, match="mine has no stage 'hero'"):
        run(recipe, tmp_path / "runs", "cpu", plain=True, until=["hero"])
