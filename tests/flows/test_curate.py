"""What-if builds on trajectories that are there: the same identity as in a run, and nothing sampled again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest

from data.lineage import RECORD, Artifact, file_digests, read_json, write_json
from data.problems import generate
from data.records import Completion, Reward, Trajectory, Verdict
from data.store import read_table, write_table
from data.world.corpus import worked
from data.world.families import FAMILIES
from flows import curate as what_if
from flows import recipe as recipes
from flows.keep import collect_garbage
from flows.plan import plan
from flows.trace import find
from tasks.rollout import as_frame
from tasks.stage import Session, session
from tasks.tracking import MlflowTracker

ROOT = Path(__file__).parents[2]
SETTINGS = ["rejection.curate.general_share=0.2"]


def trajectories(count: int) -> list[Trajectory]:
    """Two answers a problem: a right one, and one that is wrong for every third problem; thinking of some length."""
    found = []
    family = FAMILIES["chain"]
    for number, problem in enumerate(generate({"chain": 1.0}, count, 1, "train")):
        for sample in range(2):
            right = sample == 0 or number % 3
            told = worked(family, family.draw(Random(10 * number + sample)), problem.language, Random(number)).thinking  # type: ignore[arg-type]
            found.append(
                Trajectory(
                    f"{problem.id}/{sample}", problem, Completion(tuple(range(5 + number)), (0.0,), told, "stop"), told,
                    problem.solution, Verdict("correct" if right else "wrong"), Reward(2.0 if right else 0.0), 1.0, 0,
                )
            )  # fmt: skip
    return found


def fill(artifact: Artifact, frame: pl.DataFrame) -> None:
    artifact.folder.mkdir(parents=True)
    write_table(artifact.folder / "trajectories.parquet", frame)
    record = {
        "key": artifact.key, "name": artifact.name, "stage": artifact.stage, "version": 1,
        "fingerprint": artifact.fingerprint, "config": {}, "parents": [], "summary": {"rows": len(frame)},
        "files": file_digests(artifact.folder, ".resume"), "wall_s": 1.0,
    }  # fmt: skip
    write_json(artifact.folder / RECORD, record)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The samples of tiny's rejection sampling, and nothing else."""
    folder = tmp_path / "runs"
    steps = {step.artifact.name: step.artifact for step in plan(recipes.load("tiny"), folder)}
    fill(steps["rejection_samples"], as_frame(trajectories(30)))
    return folder


def build(runs: Path, *changes: str, **asked: Any) -> Path:
    recipe = recipes.load("tiny", [*SETTINGS, *changes])
    return what_if.run(what_if.ask(recipe, runs, **asked), runs, plain=True)


def test_a_build_is_the_one_that_a_run_of_the_same_settings_would_make(runs: Path) -> None:
    change = "rejection.curate.max_rows=7"
    before = {path.name for path in runs.glob("[!.]*-*")}
    made = build(runs, change)
    planned = {step.artifact.name: step for step in plan(recipes.load("tiny", [*SETTINGS, change]), runs)}
    assert made == planned["rejection_rows"].artifact.folder
    assert planned["rejection_rows"].cached
    assert len(read_table(made / "kept.parquet")) == 7
    parents = {parent["argument"]: parent["key"] for parent in read_json(made / RECORD)["parents"]}
    assert parents["trajectories"] == planned["rejection_samples"].artifact.key
    new = {path.name.split("-")[0] for path in runs.glob("[!.]*-*")} - {name.split("-")[0] for name in before}
    assert new == {"collect_general", "collect", "curate", "tiny"}  # no policy, nothing sampled


def test_a_named_build_is_found_and_kept(runs: Path) -> None:
    strict = build(runs, "rejection.curate.max_rows=5", name="strict")
    other = build(runs, "rejection.curate.max_rows=6")
    assert find("strict/rejection_rows", runs).folder == strict
    assert find("tiny-what-if/rejection_rows", runs).folder == other
    last = build(runs, "rejection.curate.max_rows=8")
    freed = [line.split()[-2] for line in collect_garbage(runs, delete=True)][:-1]
    assert freed == [other.name]
    assert strict.is_dir()
    assert last.is_dir()


def test_a_swept_threshold_gives_a_build_for_each_value_and_a_curve(runs: Path) -> None:
    made = build(runs, sweep="surplus.max_per_problem=1,2")
    curve = read_table(made / "curve.parquet")
    assert curve.columns[:2] == ["surplus.max_per_problem", "kept"]
    assert curve.select("surplus.max_per_problem", "kept", "correct", "quality").rows() == [
        ("1", 30, 1.0, 1.0),
        ("2", 50, 1.0, 1.0),
    ]
    assert (made / "curve.svg").read_text().count("<svg") == 1
    summary = read_json(made / RECORD)["summary"]
    assert (summary["kept/1"], summary["kept/2"]) == (30, 50)
    name = "tiny-what-if/rejection_rows[surplus.max_per_problem=2]"
    assert len(read_table(find(name, runs).folder / "kept.parquet")) == 50


def test_a_sweep_is_measured_by_what_was_planted(runs: Path, tmp_path: Path) -> None:
    frame = as_frame(trajectories(30)).sort("id")
    long = frame.filter(pl.col("tokens") > 25)["id"].to_list()
    truth = frame.select("id", defect=pl.when(pl.col("id").is_in(long)).then(pl.lit("over_long")))
    truth.write_parquet(tmp_path / "truth.parquet")
    filters = 'rejection.curate.filters=[{name="over_long", max_tokens=9}]'
    made = build(runs, filters, sweep="over_long.max_tokens=15, 25, 30", truth=tmp_path / "truth.parquet")
    curve = read_table(made / "curve.parquet")
    counts = [frame.filter(pl.col("tokens") <= limit).height for limit in (15, 25, 30)]
    whole = frame.filter(pl.col("tokens") <= 25).height
    assert curve["kept"].to_list() == counts
    assert curve["spared"].to_list() == [counts[0] / whole, 1.0, 1.0]
    assert curve["caught"].to_list() == [1.0, 1.0, (len(frame) - counts[2]) / len(long)]
    assert curve["quality"].to_list() == [1.0, 1.0, whole / counts[2]]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"sweep": "repetition.ngram=8"}, "--sweep repetition.ngram=8: write it as filter.threshold=a,b,c, with two"),
        ({"sweep": "novelty.ngram=1,2"}, "no filter 'novelty' in this build; there are verdict, "),
        ({"sweep": "repetition.typo=1,2"}, "no setting 'typo'; allowed are max_line_repeats, ngram, max_ngram_share"),
        ({"sweep": "repetition.max_ngram_share=0.1,2"}, "max_ngram_share = 2: Input should be less than or equal to"),
        ({"part": "dev1"}, "--part must be out of rejection, cold, got 'dev1'"),
        ({"name": "tiny"}, "--name tiny: a recipe is called so"),
        ({"name": "../x"}, "--name must be letters, digits"),
        ({"truth": Path("x.jsonl")}, "--truth is what a --sweep is measured by"),
        ({"truth": Path("x.jsonl"), "sweep": "surplus.max_per_problem=1,2"}, "x.jsonl: no .jsonl or .parquet file of"),
        ({"part": "cold"}, "is not there, and curate samples nothing: `r1 run tiny` makes it"),
    ],
)
def test_what_cannot_be_asked_is_one_line(runs: Path, asked: dict[str, Any], message: str) -> None:
    before = sorted(path.name for path in runs.iterdir())
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        build(runs, **asked)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in runs.iterdir()) == before


def test_bad_input_is_one_line_and_exit_code_2(runs: Path) -> None:
    before = sorted(path.name for path in runs.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "flows", "curate", "tiny", "--sweep", "novelty.ngram=1,2", "--runs", str(runs)],
        capture_output=True, text=True, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("r1: --sweep novelty.ngram=1,2: no filter 'novelty' in this build")
    assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in runs.iterdir()) == before


def own(tmp_path: Path, rows: int = 8) -> Path:
    """A recipe that names one's own trajectories and no model."""
    lines = [
        {
            "question": f"What is {n} + {n}?",
            "solution": f"{n} and {n} make a sum, which we add up.",
            "answer": str(2 * n),
        }
        for n in range(rows)
    ]
    (tmp_path / "limo.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        '[rejection.trajectories]\npath = "limo.jsonl"\nmap = "limo"\n\n[rejection.curate]\nmax_rows = 6\n'
    )
    return recipe


def test_a_set_is_built_of_ones_own_trajectories_with_no_model(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    recipe = recipes.load(str(own(tmp_path)), absent=what_if.NO_MODELS)
    made = what_if.run(what_if.ask(recipe, runs), runs, plain=True)
    kept = read_table(made / "kept.parquet")
    assert len(kept) == 6
    assert set(kept["verdict"]) == {"correct"}
    assert {path.name.split("-")[0] for path in runs.glob("[!.]*-*")} == {
        "take", "collect", "collect_general", "curate", "mine",
    }  # fmt: skip
    rows = read_table(made / "rows.parquet").filter(pl.col("source") == "trajectory")
    assert rows["completion"][0].startswith("<think> ")
    assert find("mine-what-if/rejection_samples", runs).stage == "take"


def test_a_recipe_without_a_model_is_only_for_curate(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mine\.toml: base: a base has either a path"):
        recipes.load(str(own(tmp_path)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (['rejection.trajectories.map="open-r1"'], "rejection.trajectories: limo.jsonl line 1: no column 'problem', "),
        (['rejection.trajectories.map="nosuch"'], "--set rejection.trajectories.map: rejection.trajectories: no map"),
        (['rejection.trajectories.columns={correct="ok"}'], "no column 'ok', named for correct; it has question"),
        (['rejection.trajectories.path="absent.jsonl"'], "rejection.trajectories.path: no such file or folder"),
    ],
)
def test_a_map_that_does_not_fit_is_one_line(tmp_path: Path, changes: list[str], message: str) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        what_if.ask(recipes.load(str(own(tmp_path)), changes, absent=what_if.NO_MODELS), runs)
    assert "\n" not in str(error.value)
    assert not runs.exists()


def test_mlflow_shows_where_the_rows_went_and_what_a_threshold_does(runs: Path) -> None:
    asked = what_if.ask(recipes.load("tiny", SETTINGS), runs, sweep="surplus.max_per_problem=1,2")
    tracker = MlflowTracker(runs, "tiny")
    with session(Session(runs, "plain", tracker=tracker)):
        asked.make(runs)
    found = {run.data.tags["mlflow.runName"]: run for run in tracker.client.search_runs([tracker.experiment_id])}
    build = found["rejection_rows[surplus.max_per_problem=1] (curate)"].info.run_id
    names = {each.path for each in tracker.client.list_artifacts(build)}
    assert names == {"waterfall.json", "waterfall.svg", "composition.md"}
    table = pl.DataFrame(tracker.client.load_table(tracker.experiment_id, "waterfall.json", [build]).to_dict("list"))
    assert table.filter(pl.col("reason") == "surplus").select("domain", "language", "rows").rows() == [
        ("chain", "en", 10),
        ("chain", "zh", 10),
    ]
    note = tracker.client.get_run(build).data.tags["mlflow.note.content"]
    assert "| surplus | 20 | 33.3 % |" in note
    curve = found["curve (curve)"]
    assert {each.path for each in tracker.client.list_artifacts(curve.info.run_id)} == {"curve.json", "curve.svg"}
    assert curve.data.metrics["summary/kept/2"] == 50


@pytest.mark.parametrize(
    ("lines", "message"),
    [([], "no trajectory in it"), ([{"question": "2 + 2?", "solution": " ", "answer": "4"}], "thinking must be text")],
)
def test_own_trajectories_that_cannot_be_read_leave_nothing(tmp_path: Path, lines: list[Any], message: str) -> None:
    recipe, runs = own(tmp_path), tmp_path / "runs"
    (tmp_path / "limo.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=rf"^rejection\.trajectories: .*{message}[^\n]*$"):
        what_if.ask(recipes.load(str(recipe), absent=what_if.NO_MODELS), runs)
    assert not runs.exists()
