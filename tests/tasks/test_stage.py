"""Stages: what bears identity, and that a folder is whole, made once, and watched over."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from data.depot import Depot
from data.lineage import (
    PLACE,
    WHEN_SET,
    Artifact,
    BrokenArtifact,
    Policy,
    Report,
    Settings,
    Table,
    canonical,
    fingerprint,
)
from tasks.stage import Run, Session, Site, Summary, session, stage

ROOT = Path(__file__).parents[2]


class Pot(Settings):
    """What is brewed, and where the water stands."""

    spoons: int = 2
    shares: dict[str, float] = Field(default={"green": 0.5, "black": 0.5})
    water: Path = Field(Path("/tap"), json_schema_extra=PLACE)


def brewing(version: int = 1, calls: list[str] | None = None) -> Callable[..., Table]:
    @stage(version=version, makes=Table)
    def brew(run: Run, config: Pot, leaves: Table | None = None) -> Summary:
        if calls is not None:
            calls.append(run.name)
        (run.folder / "tea.txt").write_text(f"{config.spoons} spoons")
        return {"spoons": config.spoons}

    return brew


brew = brewing()


@pytest.fixture
def planned(tmp_path: Path) -> Any:
    with session(Session(tmp_path / "runs", "plan")) as opened:
        yield opened


# Identity.


def test_names_places_and_the_order_of_keys_bear_no_identity(planned: Session) -> None:
    usual = brew("morning", Pot()).fingerprint
    assert brew("evening", Pot()).fingerprint == usual
    assert brew("morning", config=Pot(), leaves=None).fingerprint == usual
    assert brew("morning", Pot(water=Path("/well"))).fingerprint == usual
    assert brew("morning", Pot(shares={"black": 0.5, "green": 0.5})).fingerprint == usual
    assert len(usual) == 12


def test_settings_versions_and_parents_bear_identity(planned: Session) -> None:
    ones = [brew("leaves", Pot(spoons=spoons)) for spoons in (1, 2)]
    found = {
        "usual": brew("tea", Pot()),
        "setting": brew("tea", Pot(spoons=3)),
        "deep": brew("tea", Pot(shares={"green": 0.4, "black": 0.6})),
        "version": brewing(version=2)("tea", Pot()),
        "parent": brew("tea", Pot(), ones[0]),
        "other parent": brew("tea", Pot(), ones[1]),
        "grandparent": brew("tea", Pot(), brew("leaves", Pot(), ones[0])),
    }
    assert len({each.fingerprint for each in found.values()}) == len(found)
    assert {each.stage for each in found.values()} == {"brew"}


def test_a_mappings_keys_say_what_a_parent_is_for(planned: Session) -> None:
    @stage(version=1, makes=Report)
    def compare(run: Run, teas: dict[str, Table]) -> Summary:
        return {}

    green, black = brew("green", Pot(spoons=1)), brew("black", Pot(spoons=2))
    usual = compare("report", {"green": green, "black": black})
    assert compare("report", {"black": black, "green": green}) == usual
    assert compare("report", {"green": black, "black": green}) != usual
    assert compare("report", {"white": green, "black": black}) != usual
    assert [parent.name for parent in planned.steps[2].parents["teas"]] == ["green", "black"]


@pytest.mark.parametrize("value", [object(), print, {1, 2}, Path("/tmp"), 1j], ids=str)
def test_what_has_no_identity_is_refused(planned: Session, value: object) -> None:
    with pytest.raises(TypeError, match="has no stable identity: a configuration holds numbers, text, lists and"):
        brew("tea", value)
    assert planned.steps == []


def test_a_fingerprint_is_a_hash_of_plain_json() -> None:
    assert canonical(Pot()) == {"shares": {"black": 0.5, "green": 0.5}, "spoons": 2}
    text = (
        '{"config": {"config": {"shares": {"black": 0.5, "green": 0.5}, "spoons": 2}}, '
        '"parents": {"leaves": ["0123456789ab"]}, "stage": "brew", "version": 3}'
    )
    expected = hashlib.sha256(text.encode()).hexdigest()[:12]
    assert fingerprint("brew", 3, {"config": Pot()}, {"leaves": ["0123456789ab"]}) == expected


# Making.


def test_a_stage_is_made_once_and_then_taken_as_it_is(tmp_path: Path) -> None:
    calls: list[str] = []
    made = []
    for name in ("first", "second"):
        with session(Session(tmp_path / "runs", "plain")) as opened:
            made.append(brewing(calls=calls)(name, Pot()))
        assert opened.steps[0].cached == (name == "second")
    assert calls == ["first"]
    assert made[0].folder == made[1].folder
    assert made[1].record()["name"] == "first"


def test_the_record_tells_what_was_made_out_of_what(plain: Session) -> None:
    leaves = brew("leaves", Pot(spoons=1))
    record = brew("tea", Pot(), leaves).record()
    assert record["stage"] == "brew"
    assert record["version"] == 1
    assert record["config"] == {"config": {"shares": {"black": 0.5, "green": 0.5}, "spoons": 2}}
    assert record["parents"] == [{"argument": "leaves", "name": "leaves", "key": leaves.key}]
    assert record["summary"] == {"spoons": 2}
    assert list(record["files"]) == ["tea.txt"]


def test_metrics_are_kept_line_by_line(plain: Session) -> None:
    @stage(version=1, makes=Table)
    def count(run: Run) -> Summary:
        for step in (1, 2):
            run.log(step, 2, {"loss": 1 / step})
            run.progress(step, 2)
        return {}

    lines = (count("numbers").folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]


def test_a_half_filled_folder_is_cleared(plain: Session) -> None:
    with session(Session(plain.runs, "plan")):
        expected = brew("tea", Pot())
    expected.folder.mkdir(parents=True)
    (expected.folder / "spill.txt").write_text("left by a run that was killed")
    made = brew("tea", Pot())
    assert made == expected
    assert sorted(path.name for path in made.folder.iterdir()) == ["record.json", "tea.txt"]


@pytest.mark.parametrize("error", [ValueError("no water"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_stage_that_does_not_end_leaves_no_record(plain: Session, error: BaseException) -> None:
    failing = [error]

    @stage(version=1, makes=Policy)
    def boil(run: Run) -> Summary:
        (run.folder / f"steam-{len(failing)}").touch()
        if failing:
            raise failing.pop()
        return {}

    with pytest.raises(type(error)):
        boil("kettle")
    [folder] = plain.runs.glob("boil-*")
    assert [path.name for path in folder.iterdir()] == ["steam-1"]
    assert boil("kettle").done
    assert sorted(path.name for path in folder.iterdir()) == ["record.json", "steam-0"]


def change(artifact: Artifact) -> None:
    (artifact.folder / "tea.txt").write_text("coffee")


def remove(artifact: Artifact) -> None:
    (artifact.folder / "tea.txt").unlink()


@pytest.mark.parametrize("harm", [change, remove])
def test_a_file_that_changed_is_found(plain: Session, harm: Callable[[Artifact], None]) -> None:
    artifact = brew("tea", Pot())
    harm(artifact)
    with pytest.raises(BrokenArtifact, match=rf"{artifact.key}/tea.txt was changed or is missing"):
        brew("tea", Pot())


def test_a_record_of_another_version_is_one_clear_error(plain: Session) -> None:
    made = brew("tea", Pot())
    record = made.record()
    del record["files"]
    (made.folder / "record.json").write_text(json.dumps(record))
    told = f"{made.folder}/record.json has no 'files': another version made it. Delete the folder to make it again"
    with pytest.raises(ValueError, match=re.escape(told)):
        brew("tea", Pot())


class Elsewhere(Site):
    """A site that has artifacts of other machines in a folder, and remembers what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.depot, self.asked = Depot(f"file://{folder}"), list[str]()

    def take(self, artifact: Artifact) -> bool:
        self.asked.append(f"take {artifact.name}")
        return self.depot.take(artifact)

    def put(self, artifact: Artifact) -> None:
        self.asked.append(f"put {artifact.name}")
        self.depot.put(artifact)


def test_what_another_machine_made_is_taken_and_what_is_made_here_is_put(tmp_path: Path) -> None:
    calls: list[str] = []
    made = {}
    for machine in ("one", "two"):
        with session(Session(tmp_path / machine, "plain", site=Elsewhere(tmp_path / "depot"))) as opened:
            leaves = brewing(calls=calls)("leaves", Pot(spoons=1))
            made[machine] = brewing(calls=calls)("tea", Pot(), leaves)
    assert calls == ["leaves", "tea"]
    assert [step.cached for step in opened.steps] == [True, True]
    assert made["one"].record() == made["two"].record()


def test_a_stage_alone_takes_the_parents_that_it_lacks(tmp_path: Path) -> None:
    calls: list[str] = []
    with session(Session(tmp_path / "one", "plain", site=Elsewhere(tmp_path / "depot"))):
        leaves = brewing(calls=calls)("leaves", Pot(spoons=1))
    with session(Session(tmp_path / "two", "plan")):
        wanted = brewing()("tea", Pot(), brewing()("leaves", Pot(spoons=1))).key
    there = Elsewhere(tmp_path / "depot")
    with session(Session(tmp_path / "two", "plain", site=there, wanted=frozenset({wanted}))) as opened:
        brewing(calls=calls)("tea", Pot(), brewing(calls=calls)("leaves", Pot(spoons=1)))
    assert calls == ["leaves", "tea"]
    assert (tmp_path / "two" / leaves.key / "tea.txt").read_text() == "1 spoons"
    assert there.asked == ["take tea", "take tea", "take leaves", "put tea"]
    assert [step.artifact.done for step in opened.steps] == [True, True]


def test_a_stage_needs_a_session() -> None:
    with pytest.raises(RuntimeError, match=r"brew is a stage: call it within `with session"):
        brew("tea", Pot())


def test_a_plan_makes_nothing(planned: Session) -> None:
    calls: list[str] = []
    leaves = brewing(calls=calls)("leaves", Pot(spoons=1))
    tea = brewing(calls=calls)("tea", Pot(), leaves)
    assert calls == []
    assert not planned.runs.exists()
    assert not tea.done
    assert [(step.artifact.name, step.index, step.cached) for step in planned.steps] == [
        ("leaves", 0, False),
        ("tea", 1, False),
    ]


PROCESS = """
import sys, time
from pathlib import Path
from data.lineage import Table
from tasks.stage import Run, Session, session, stage

@stage(version=1, makes=Table)
def slow(run: Run):
    with (run.folder.parent / "made.txt").open("a") as file:
        file.write(f"{sys.argv[2]} begins\\n")
    time.sleep(0.5)
    with (run.folder.parent / "made.txt").open("a") as file:
        file.write(f"{sys.argv[2]} ends\\n")
    return {}

with session(Session(Path(sys.argv[1]), "plain")) as opened:
    sys.stdin.readline()
    slow("tea")
    print(opened.steps[0].cached)
"""


def test_two_processes_make_an_artifact_once(tmp_path: Path) -> None:
    both = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for name in ("one", "two")
    ]  # fmt: skip
    for each in both:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    told = [each.communicate(timeout=60)[0].strip() for each in both]
    assert sorted(told) == ["False", "True"]
    maker = "one" if told[0] == "False" else "two"
    assert (tmp_path / "made.txt").read_text() == f"{maker} begins\n{maker} ends\n"


class Later(Settings):
    """A setting that came later than the first fingerprints."""

    always: int = 3
    extra: tuple[str, ...] = Field(("en", "zh"), json_schema_extra=WHEN_SET)


def test_a_setting_that_bears_identity_when_set_leaves_older_fingerprints_alone() -> None:
    assert canonical(Later()) == canonical(Later(extra=("en", "zh"))) == {"always": 3}
    assert canonical(Later(extra=("en",))) == {"always": 3, "extra": ["en"]}
