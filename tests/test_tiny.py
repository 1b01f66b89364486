"""The whole chain on the smallest recipe, run as people run it: by the command line, with real servers."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import polars as pl
import pytest

from data.lineage import read_json
from tasks.tracking import store_uri

ROOT = Path(__file__).parent.parent
MODELS = {
    "base", "zero", "dev1", "dev2", "dev2_without_language_reward", "dev3", "r1", "student_distilled", "student_rl",
}  # fmt: skip
FIGURES = {
    "pass@1", "cons@4", "format", "language_consistency", "mean_length", "reflection_per_response",
    "helpful_win_rate", "harmless_rate",
}  # fmt: skip


def r1(*words: str, runs: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows", *words, "--runs", str(runs)],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"COLUMNS": "200"}, timeout=600,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    done = r1("run", "tiny", runs=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == str(folder / "tiny" / "report.json")
    return folder


@pytest.fixture(scope="module")
def report(runs: Path) -> dict:
    return read_json(runs / "tiny" / "report.json")


pytestmark = pytest.mark.timeout(900)


def test_the_report_holds_every_figure_of_every_model(report: dict) -> None:
    assert report["recipe"] == "tiny"
    assert set(report["models"]) >= MODELS
    for name in MODELS:
        figures = report["models"][name]
        for figure in FIGURES:
            if figure == "language_consistency" and figures[figure] is None:
                continue  # no response of this model had a word of thinking
            assert figures[figure]["low"] <= figures[figure]["value"] <= figures[figure]["high"], (name, figure)
        assert set(figures["by_language"]) == {"en", "zh"}
        assert figures["by_family"]
    assert report["models"]["dev3"]["helpful_win_rate"]["value"] == 0.5


def test_stages_have_unique_names_and_were_made(report: dict, runs: Path) -> None:
    names = [stage["name"] for stage in report["stages"]]
    assert len(set(names)) == len(names)
    for stage in report["stages"]:
        record = read_json(runs / f"{stage['stage']}-{stage['fingerprint']}" / "record.json")
        assert record["name"] == stage["name"]
        assert not stage["cached"]


def test_a_second_run_does_nothing_and_a_changed_setting_reruns_what_hangs_on_it(runs: Path) -> None:
    again = r1("run", "tiny", runs=runs)
    assert again.returncode == 0, again.stderr
    assert all(stage["cached"] for stage in read_json(runs / "tiny" / "report.json")["stages"])
    assert again.stderr.count(" cached ") == len(read_json(runs / "tiny" / "report.json")["stages"])
    shown = r1("show", "tiny", "--set", "distill.learning_rate=2e-3", runs=runs).stdout
    rerun = [line.split()[1] for line in shown.splitlines() if "would run" in line]
    assert rerun == ["student_distilled", "student_distilled_evaluation", "report"]
    assert "config.learning_rate: 0.0005 -> 0.002" in shown


def test_a_run_closes_the_history_that_one_before_was_killed_at(runs: Path) -> None:
    [last] = runs.glob("report-*")
    client, run_id = mlflow.MlflowClient(store_uri(runs)), read_json(last / "record.json")["mlflow_run_id"]
    client.update_run(run_id, "RUNNING")
    (last / ".resume").mkdir()
    again = r1("run", "tiny", runs=runs)
    assert again.returncode == 0, again.stderr
    assert all(stage["cached"] for stage in read_json(runs / "tiny" / "report.json")["stages"])
    assert client.get_run(run_id).info.status == "FINISHED"
    assert not (last / ".resume").exists()


def test_no_held_out_problem_is_in_training_data(runs: Path) -> None:
    tables = {read_json(path)["name"]: path.parent for path in runs.glob("collect-*/record.json")}
    held = set(pl.read_parquet(tables["heldout"] / "problems.parquet")["key"])
    trained = [pl.read_parquet(path) for path in runs.glob("reinforce-*/trajectories.parquet")]
    trained += [pl.read_parquet(path) for path in runs.glob("curate-*/kept.parquet")]
    assert len(trained) == 7
    for frame in trained:
        assert len(frame)
        assert not held & set(frame["key"])


def test_every_stage_is_a_run_in_mlflow_with_parents_and_metrics(runs: Path, report: dict) -> None:
    client = mlflow.MlflowClient(store_uri(runs))
    experiment = client.get_experiment_by_name("tiny")
    found = client.search_runs([experiment.experiment_id], "tags.stage != ''")
    assert {run.data.tags["artifact"] for run in found} == {
        f"{stage['stage']}-{stage['fingerprint']}" for stage in report["stages"]
    }
    zero = next(run for run in found if run.data.tags["mlflow.runName"].startswith("zero ("))
    zero = client.get_run(zero.info.run_id)  # a search returns no model inputs
    assert zero.data.params["config.num_generations"] == "4"
    history = client.get_metric_history(zero.info.run_id, "loss")
    assert [metric.step for metric in history] == [1, 2, 3, 4]
    assert {item.dataset.name for item in zero.inputs.dataset_inputs} == {"problems"}
    assert len(zero.inputs.model_inputs) == 1
    assert sorted(model.step for model in zero.outputs.model_outputs) == [0, 2]  # the policy, and a checkpoint
    assert zero.data.tags["mlflow.parentRunId"]


def test_a_row_is_traced_to_its_trajectory_and_problem(runs: Path) -> None:
    curated = {read_json(p)["name"]: p.parent for p in runs.glob("curate-*/record.json")}["rejection_rows"]
    row = pl.read_parquet(curated / "rows.parquet").filter(pl.col("source") == "trajectory")["id"][0]
    told = r1("trace", f"tiny/rejection_rows/{row}", runs=runs).stdout
    for part in ("reward_accuracy", "trajectories.parquet", "problems.parquet", "dev2  reinforce-", "base  adopt-"):
        assert part in told


def test_a_row_is_followed_down_to_the_checkpoints_that_learned_from_it(runs: Path) -> None:
    curated = {read_json(p)["name"]: p.parent for p in runs.glob("curate-*/record.json")}["rejection_rows"]
    kept = pl.read_parquet(curated / "rows.parquet").filter(pl.col("source") == "trajectory")["id"][0]
    told = r1("trace", f"tiny/rejection_samples/{kept}", "--down", runs=runs).stdout.splitlines()
    fates = {line.split()[0]: line.split("  ")[-1] for line in told}
    assert fates["rejection_rows"] == "took it"
    assert fates["dev3"] == fates["student_distilled"] == "learned from it"
    assert fates["r1"] == fates["helpful"] == "checkpoint"
    assert not fates.keys() & {"dev2", "zero", "student_rl", "dev1"}
    lost = pl.read_parquet(curated / "dropped.parquet")["id"][0]
    [only] = r1("trace", f"tiny/rejection_samples/{lost}", "--down", runs=runs).stdout.splitlines()
    assert only.startswith("rejection_rows")
    assert only.endswith("dropped it")


def test_a_checkpoint_is_followed_to_every_row_it_saw(runs: Path) -> None:
    curated = {read_json(p)["name"]: p.parent for p in runs.glob("curate-*/record.json")}["rejection_rows"]
    told = r1("trace", "tiny/dev3", "--rows", runs=runs).stdout.splitlines()
    of_dev3 = [line.split("  ") for line in told if line.startswith("dev3 ")]
    rows = pl.read_parquet(curated / "rows.parquet")
    assert [line[1] for line in of_dev3] == rows["id"].to_list()
    makers = dict(zip(rows["source"], (line[2] for line in of_dev3), strict=True))
    assert makers["trajectory"].startswith("by dev2 (reinforce-")
    assert makers["writers"].startswith("by writers, collect_general version 1, seed 0")


def test_what_is_broken_is_found_named_and_made_again(runs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "runs"
    shutil.copytree(runs, copy)
    assert r1("verify", runs=copy).returncode == 0
    rows = {read_json(p)["name"]: p.parent for p in copy.glob("curate-*/record.json")}[
        "rejection_rows"
    ] / "rows.parquet"
    whole = rows.read_bytes()
    rows.write_bytes(whole[:-100])
    found = r1("verify", runs=copy)
    assert found.returncode == 1
    assert found.stdout.startswith(f"rejection_rows ({rows.parent.name}): rows.parquet; made from it: dev3 (finetune-")
    stopped = r1("run", "tiny", runs=copy)
    assert stopped.returncode == 2
    last = stopped.stderr.splitlines()[-1]
    assert f"{rows.parent.name}/rows.parquet was changed or is missing since it was made; dev3, " in last
    assert last.endswith("`r1 run tiny --remake rejection_rows` makes it again")
    again = r1("run", "tiny", "--plain", "--remake", "rejection_rows", runs=copy)
    assert again.returncode == 0, again.stderr
    made = [stage["name"] for stage in read_json(copy / "tiny" / "report.json")["stages"] if not stage["cached"]]
    assert made == ["rejection_rows"]
    assert rows.read_bytes() == whole


def test_what_no_recipe_needs_is_shown_and_then_deleted(runs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "runs"
    shutil.copytree(runs, copy)
    left = copy / "finetune-0123456789ab"
    left.mkdir()
    (left / "half").write_bytes(bytes(5000))
    before = {path.name for path in copy.glob("*-*")}
    shown = r1("gc", runs=copy).stdout.splitlines()
    assert shown[0].split() == ["5", "kB", left.name, "unfinished"]
    assert "would be freed by r1 gc --delete; 35 artifacts are needed" in shown[-1]
    assert left.exists()
    assert "freed; 35 artifacts are needed" in r1("gc", "--delete", runs=copy).stdout
    assert {path.name for path in copy.glob("*-*")} == before - {left.name}


def test_chat_shows_thinking_and_summary(runs: Path) -> None:
    talk = subprocess.run(
        [sys.executable, "-m", "flows", "chat", "tiny/base", "--runs", str(runs), "--temperature", "0"],
        input="start with 12, add 30, take 5. result?\n", capture_output=True, text=True, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert talk.returncode == 0, talk.stderr
    assert talk.stdout.strip()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "tini"], "unknown recipe 'tini'; there are micro, paper, seeds, small, tiny"),
        (["run", "tiny", "--set", "zero.num_generations=1"], "greater than or equal to 2"),
        (["run", "tiny", "--set", "zero.typo=1"], "unknown key 'typo'"),
        (["run", "tiny", "--set", "zero.save_steps=3"], "save_steps = 3 is not a multiple of steps_per_generation"),
        (["run", "tiny", "--set", "base.path=nowhere"], "no such file or folder"),
        (["run", "tiny", "--set", "problems.path=nowhere.jsonl"], "no such file or folder"),
        (["run", "tiny", "--set", "problems.path={here}/rows.jsonl"], "rows.jsonl line 2: not JSON"),
        (["run", "tiny", "--set", "problems.path={here}/latin.jsonl"], "latin.jsonl line 1: not UTF-8 at its byte 12"),
        (["show", "tiny", "--set", "problems.path={here}/fake.parquet"], "fake.parquet: not a Parquet file"),
        (["run", "tiny", "--set", "base.path={here}/rows.jsonl"], "rows.jsonl': not a folder"),
        (["run", "tiny", "--set", "base.path={here}/base"], "base': config.json names no longest context; known are"),
        (["run", "tiny", "--set", "problems.count=0"], "problems.count = 0 and no problems.path"),
        (["run", "tiny", "--set", "zero.learning_rate=inf"], "zero.learning_rate = inf"),
        (["run", "tiny", "--device", "foo"], "no device 'foo' here; there are cpu"),
        (["run", "tiny", "--save-every", "-1"], "Invalid value for '--save-every'"),
        (["run", "tiny", "--remake", "dev9"], "tiny has no stage 'dev9'; it has problems, heldout"),
        (["up", "tiny", "--prefect-port", "4499", "--mlflow-port", "4499"], "are both 4499; they must differ"),
        (["trace", "nothing"], "no such artifact"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1 + 1", "solution": "2"}\n{"prompt"\n')
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "é"}\n'.encode("latin-1"))
    (tmp_path / "fake.parquet").write_text("PAR2")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text('{"model_type": "llama"}')
    done = r1(*(word.replace("{here}", str(tmp_path)) for word in words), runs=tmp_path / "runs")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_report_page_is_self_contained(runs: Path) -> None:
    page = (runs / "tiny" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert 'src="http' not in page
    assert json.dumps("R1-Zero")[1:-1] in page
