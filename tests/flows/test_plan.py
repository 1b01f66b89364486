"""What a recipe would make, in which order, and what a changed setting changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from data.lineage import RECORDED, Artifact, write_json
from flows.plan import closure, launcher_for, outdated, plan, reasons
from flows.recipe import load
from tasks.stage import Step

R1 = [
    "problems", "heldout", "general", "base", "student_base", "zero",
    "cold_samples", "cold_rows", "dev1",
    "dev2", "dev2_without_language_reward",
    "rejection_samples", "rejection_rows", "dev3",
    "general_samples", "preference_labels", "helpful", "harmless", "r1",
    "student_distilled", "student_rl",
    "base_evaluation", "zero_evaluation", "dev1_evaluation", "dev2_evaluation",
    "dev2_without_language_reward_evaluation", "dev3_evaluation", "r1_evaluation",
    "student_base_evaluation", "student_distilled_evaluation", "student_rl_evaluation",
    "zero_curve", "dev2_curve", "dev2_without_language_reward_curve", "report",
]  # fmt: skip


def planned(runs: Path, recipe: str = "tiny", *changes: str) -> dict[str, Step]:
    return {step.artifact.name: step for step in plan(load(recipe, changes), runs)}


@pytest.mark.parametrize("recipe", ["micro", "tiny", "paper"])
def test_the_stages_of_r1_in_order(tmp_path: Path, recipe: str) -> None:
    steps = plan(load(recipe), tmp_path / "runs")
    assert [step.artifact.name for step in steps] == R1
    assert [step.index for step in steps] == list(range(len(R1)))
    assert len({step.artifact.key for step in steps}) == len(R1)
    assert not any(step.cached for step in steps)
    assert not (tmp_path / "runs").exists()


def test_the_stages_of_the_seeds(tmp_path: Path) -> None:
    steps = plan(load("seeds"), tmp_path)
    assert [(step.artifact.name, step.artifact.stage) for step in steps] == [
        ("base", "pretrain"),
        ("student_base", "pretrain"),
    ]


def test_a_base_is_adopted_or_pretrained(tmp_path: Path) -> None:
    stages = {recipe: planned(tmp_path, recipe)["base"].artifact.stage for recipe in ("micro", "paper")}
    assert stages == {"micro": "adopt", "paper": "pretrain"}


def test_every_stage_stands_on_the_papers_parents(tmp_path: Path) -> None:
    parents = {
        name: {argument: [each.name for each in parent] for argument, parent in step.parents.items()}
        for name, step in planned(tmp_path).items()
    }
    assert parents["zero"] == {"policy": ["base"], "problems": ["problems"]}
    assert parents["cold_samples"] == {"policy": ["zero"], "problems": ["problems"]}
    assert parents["dev1"] == {"policy": ["base"], "rows": ["cold_rows"]}
    assert parents["dev2"] == parents["dev2_without_language_reward"] == {"policy": ["dev1"], "problems": ["problems"]}
    assert parents["rejection_samples"]["policy"] == ["dev2"]
    assert parents["dev3"] == {"policy": ["base"], "rows": ["rejection_rows"]}  # from the base again
    assert parents["general_samples"]["policy"] == ["dev3"]
    for kind in ("helpful", "harmless"):
        assert parents[kind] == {"policy": ["dev3"], "labels": ["preference_labels"]}
    assert parents["r1"] == {"policy": ["dev3"], "problems": ["problems"], "judges": ["helpful", "harmless"]}
    assert parents["student_distilled"] == {"policy": ["student_base"], "rows": ["rejection_rows"]}
    assert parents["student_rl"] == {"policy": ["student_base"], "problems": ["problems"]}
    learned = [name for name in R1 if name not in ("cold_rows", "rejection_rows") and "curve" not in name]
    assert {name for name in learned if "heldout" in str(parents[name])} == {
        name for name in R1 if name.endswith("_evaluation")
    }


def test_several_seeds_are_runs_of_their_own_and_an_average(tmp_path: Path) -> None:
    both, second = planned(tmp_path, "tiny", "num_seeds=2"), planned(tmp_path, "tiny", "seed=1")
    shared = R1[: R1.index("zero")]
    assert list(both) == [*R1, *(f"{name}_seed1" for name in R1[len(shared) :]), "average"]
    assert {name: step.artifact.key for name, step in planned(tmp_path).items()} == {
        name: both[name].artifact.key for name in R1
    }
    for name in R1[len(shared) :]:
        assert both[f"{name}_seed1"].artifact.key == second[name].artifact.key
    assert both["average"].parents == {"reports": [both["report"].artifact, both["report_seed1"].artifact]}


AFTER_ALIGNMENT = {"r1", "r1_evaluation", "report"}
EVALUATIONS = {name for name in R1 if name.endswith(("_evaluation", "_curve"))} | {"report"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("distill.learning_rate=2e-3", {"student_distilled", "student_distilled_evaluation", "report"}),
        ("student_rl.beta=0.0", {"student_rl", "student_rl_evaluation", "report"}),
        ("alignment.temperature=0.8", AFTER_ALIGNMENT),
        ("preference.helpful.batch_size=4", AFTER_ALIGNMENT | {"helpful"}),
        ("evaluation.num_generations=5", EVALUATIONS),
        ("reasoning.language_weight=0.5", set(R1) - {
            "problems", "heldout", "general", "base", "student_base", "zero", "cold_samples", "cold_rows", "dev1",
            "dev2_without_language_reward", "student_rl", "base_evaluation", "zero_evaluation", "dev1_evaluation",
            "dev2_without_language_reward_evaluation", "student_base_evaluation", "student_rl_evaluation",
            "zero_curve", "dev2_without_language_reward_curve",
        }),
        ("zero.seed=1", set(R1) - {
            "problems", "heldout", "general", "base", "student_base", "student_rl", "base_evaluation",
            "student_base_evaluation", "student_rl_evaluation",
        }),
        ("heldout.seed=9", {"heldout", *EVALUATIONS} | set(R1[R1.index("cold_rows"):]) - {
            "student_rl", "zero_curve"
        }),
        ("description=another", set()),
    ],
)  # fmt: skip
def test_a_changed_setting_changes_only_what_depends_on_it(tmp_path: Path, change: str, expected: set[str]) -> None:
    before, after = planned(tmp_path), planned(tmp_path, "tiny", change)
    assert {name for name in R1 if before[name].artifact.key != after[name].artifact.key} == expected


def test_the_same_base_elsewhere_is_the_same_base(tmp_path: Path) -> None:
    recipe = load("tiny")
    assert recipe.base.path is not None
    moved = tmp_path / "copy"
    moved.mkdir()
    for file in recipe.base.path.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    after = planned(tmp_path, "tiny", f"base.path={moved}")
    assert after["report"].artifact == planned(tmp_path)["report"].artifact


def made(artifact: Artifact, step: Step) -> dict[str, object]:
    """Write the record of a step as if it had been made, and return its line of a run's report."""
    artifact.folder.mkdir(parents=True)
    parents = [
        {"argument": argument, "name": each.name, "key": each.key}
        for argument, several in step.parents.items()
        for each in several
    ]
    told = {"version": step.version, "config": step.config, "parents": parents, "files": {}}
    write_json(artifact.folder / "record.json", dict.fromkeys(RECORDED) | told)
    return {"name": artifact.name, "stage": artifact.stage, "fingerprint": artifact.fingerprint}


def test_reasons_name_the_setting_or_the_parent(tmp_path: Path) -> None:
    steps = planned(tmp_path)
    stages = [made(step.artifact, step) for step in steps.values()]
    (tmp_path / "tiny").mkdir()
    write_json(tmp_path / "tiny" / "report.json", {"stages": stages})
    assert all(step.cached for step in planned(tmp_path).values())
    after = planned(tmp_path, "tiny", "zero.temperature=0.9", "zero.beta=0.01")
    why = {name: [(each.what, each.before, each.after) for each in reasons(step, tmp_path, "tiny")]
           for name, step in after.items() if not step.cached}  # fmt: skip
    assert why["zero"] == [("config.beta", 0.001, 0.01), ("config.temperature", 1.0, 0.9)]
    assert why["cold_samples"] == [
        ("parent zero", steps["zero"].artifact.key, after["zero"].artifact.key)
    ]  # fmt: skip
    assert "student_rl" not in why
    assert reasons(after["zero"], tmp_path, "never run") == []


def test_a_target_needs_what_it_is_made_from_and_nothing_else(tmp_path: Path) -> None:
    steps = planned(tmp_path)
    needed = closure(load("tiny"), tmp_path, ["dev1"])
    assert {name for name, step in steps.items() if step.artifact.key in needed} == {
        "problems", "heldout", "general", "base", "zero", "cold_samples", "cold_rows", "dev1",
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"tiny has no stage 'dev4'; it has problems, heldout, general, base"):
        closure(load("tiny"), tmp_path, ["dev4"])


def test_a_source_that_changed_under_one_version_is_noticed(tmp_path: Path) -> None:
    steps = planned(tmp_path)
    for name, source, version in (("zero", "other", 0), ("dev1", "other", 1), ("dev2", None, 0)):
        step = steps[name]
        made(step.artifact, step)
        record = step.artifact.record() | {"source": source or step.source, "version": step.version + version}
        write_json(step.artifact.folder / "record.json", record)
    assert [name for name, step in planned(tmp_path).items() if outdated(step)] == ["zero"]


# In how many processes heavy stages run.


def test_heavy_stages_run_in_as_many_processes_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("R1_PROCESSES", raising=False)
    assert [launcher_for(n, "cpu").processes for n in (0, 1, 2, 3)] == [1, 1, 2, 3]
    assert launcher_for(2, "cuda").processes == 2
    assert launcher_for(1, "cuda:1").processes == 1
    assert launcher_for(9, "cpu", elsewhere="cuda").processes == 1  # asked of the machine that they are sent to
    monkeypatch.setenv("R1_PROCESSES", "3")
    assert [launcher_for(n, "cpu").processes for n in (0, 1, 2)] == [3, 1, 2]


@pytest.mark.parametrize(
    ("processes", "device", "told"),
    [
        (4, "cpu", "4 processes are more than the processors of this machine, 3"),
        (3, "cuda", "3 processes are more than the GPUs of this machine, 2"),
        (2, "cuda:1", "2 processes take a GPU each: give the device as cuda instead of cuda:1"),
        (-1, "cpu", "processes = '-1' is no number from 1 on"),
        (0, "cpu", "processes = 'many' is no number from 1 on"),
    ],
)
def test_a_number_of_processes_that_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, processes: int, device: str, told: str
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("R1_PROCESSES", "many")
    with pytest.raises(ValueError, match=f"^{told}$"):
        launcher_for(processes, device)
