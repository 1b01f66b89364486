"""What people do in a browser: trigger, watch, break and retry, cancel, and audit from R1 to the base by clicks.

The servers are those of `r1 up`, the browser is Chromium. With R1_SCREENSHOTS set to a folder the pages that the
README shows are pictured there.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from mlflow import MlflowClient

from data.lineage import TIMES
from flows.server import free_port
from tasks.tracking import store_uri
from tests.chaos import alive, descendants
from tests.system.people import Up, engine, field, shot, wait_for

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


def begin(runs: Path, prefect: int, mlflow: int) -> Up:
    command = [sys.executable, "-m", "flows", "up", "tiny", "--runs", str(runs)]
    ports = ["--prefect-port", str(prefect), "--mlflow-port", str(mlflow)]
    process = subprocess.Popen([*command, *ports], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Ctrl-C"):
            return Up(process, runs, f"http://127.0.0.1:{prefect}", f"http://127.0.0.1:{mlflow}")
    raise AssertionError(f"r1 up ended with {process.wait()}")


def end(up: Up) -> None:
    """Ctrl-C, and nothing of it is left."""
    family = descendants(up.process.pid)
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(timeout=60) == 0
    wait_for(lambda: not alive(family), 15)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    started = begin(tmp_path_factory.mktemp("up") / "runs", free_port(), free_port())
    wait_for(lambda: started.call("/deployments/count", {}) == 9)
    yield started
    end(started)


def steps(up: Up, maximum: int) -> list[int]:
    """The steps logged so far by the RL stage of so many steps."""
    for folder in up.runs.glob("reinforce-*"):
        lines = (folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").is_file() else []
        if len(lines) <= maximum:
            return [json.loads(line)["step"] for line in lines if line.endswith("}")]
    return []


def test_a_form_refuses_what_the_recipe_refuses(up: Up) -> None:
    deployment = up.deployment("r1")
    for change, told in (({"num_generations": 1}, "minimum"), ({"typo": 1}, "typo")):
        parameters = json.loads(json.dumps(deployment["parameters"]))
        parameters["recipe"]["zero"] |= change
        with pytest.raises(urllib.error.HTTPError) as refused:
            up.call(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})
        assert refused.value.code == 409
        assert told in refused.value.read().decode()


def test_trigger_with_a_changed_setting_break_it_and_retry(up: Up, page: Any) -> None:
    page.goto(f"{up.prefect}/deployments")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="r1-zero", exact=True))
    row.get_by_role("link", name="tiny").click()
    page.get_by_role("button", name="Run", exact=True).last.click()
    page.get_by_text("Custom run").click()
    field(page, "Max Steps").fill("40")
    shot(page, "form")
    field(page, "save_every_s").fill("0")
    page.get_by_role("button", name="Submit").click()
    run = wait_for(lambda: up.runs_of("r1-zero"))[0]
    assert run["parameters"]["recipe"]["zero"]["max_steps"] == 40
    assert run["name"] == "r1-zero tiny" or wait_for(lambda: up.runs_of("r1-zero")[0]["name"] == "r1-zero tiny")

    wait_for(lambda: len(steps(up, 40)) >= 8)
    os.kill(engine(up), signal.SIGKILL)
    [folder] = up.runs.glob("reinforce-*")
    spent = (folder / TIMES).read_text().splitlines()
    wait_for(lambda: up.state(run["id"]) == "Crashed", 30)
    page.goto(f"{up.prefect}/runs/flow-run/{run['id']}")
    page.get_by_text("Crashed").first.wait_for()
    page.get_by_role("button", name="Retry").click()
    page.get_by_role("dialog").get_by_role("button", name="Retry").click()
    wait_for(lambda: up.state(run["id"]) == "Completed")
    page.reload()
    page.get_by_text("Completed").first.wait_for()
    page.get_by_role("tab", name="Task Runs").or_(page.get_by_text("Task Runs", exact=True)).first.click()
    page.get_by_text("Cached").first.wait_for()
    shot(page, "retried")

    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [*range(1, 41)]
    client = MlflowClient(store_uri(up.runs))
    made = client.get_run(json.loads((folder / "record.json").read_text())["mlflow_run_id"])
    assert made.data.tags["attempts"] == "2"
    history = client.get_metric_history(made.info.run_id, "grad_norm")
    assert [point.step for point in history] == [*range(1, 41)]
    assert (folder / TIMES).read_text().splitlines()[:4] == spent[:4]  # no two steps take the same nanoseconds

    records = {path: path.read_bytes() for path in up.runs.glob("*/record.json")}
    page.get_by_role("button", name="Retry").click()  # of what is complete: nothing is left to do
    page.get_by_role("dialog").get_by_role("button", name="Retry").click()
    wait_for(lambda: up.call(f"/flow_runs/{run['id']}")["run_count"] == 3)
    wait_for(lambda: up.state(run["id"]) == "Completed")
    tasks = up.call("/task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [run["id"]]}}})
    assert [task["state_name"] for task in tasks if task["flow_run_run_count"] == 3] == ["Cached"] * len(records)
    assert {path: path.read_bytes() for path in up.runs.glob("*/record.json")} == records
    found = client.search_runs([made.info.experiment_id])
    assert {each.info.status for each in found} == {"FINISHED"}
    assert [each.data.tags["flow_run"] for each in found if "flow_run" in each.data.tags] == [run["id"]]
    assert sorted(each.data.tags["artifact"] for each in found if "artifact" in each.data.tags) == sorted(
        path.parent.name for path in records
    )


def test_cancel_stops_the_work_and_leaves_what_it_takes_to_go_on(up: Up, page: Any) -> None:
    deployment = up.deployment("r1-zero")
    parameters = deployment["parameters"]
    parameters["recipe"]["zero"]["max_steps"] = 400
    parameters["save_every_s"] = 0
    run = up.call(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})["id"]
    done = {folder.name for folder in up.runs.glob("reinforce-*") if (folder / "record.json").is_file()}

    def begun() -> Path | None:
        fresh = [folder for folder in up.runs.glob("reinforce-*/metrics.jsonl") if folder.parent.name not in done]
        return fresh[0].parent if fresh and len(fresh[0].read_text().splitlines()) >= 6 else None

    folder = wait_for(begun)
    pid = engine(up)
    page.goto(f"{up.prefect}/runs/flow-run/{run}")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name=re.compile("Cancel|Confirm")).last.click()
    wait_for(lambda: up.state(run) == "Cancelled", 30)
    wait_for(lambda: not alive([pid]), 30)
    assert list((folder / ".resume").glob("state-*"))
    client = MlflowClient(store_uri(up.runs))
    [left] = client.search_runs(
        [each.experiment_id for each in client.search_experiments()], f"tags.artifact = '{folder.name}'"
    )
    assert left.info.status == "KILLED"


def test_r1_run_uses_the_server_and_its_lineage_is_walked_by_clicks(up: Up, page: Any) -> None:
    command = [sys.executable, "-m", "flows", "run", "tiny", "--runs", str(up.runs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    run = up.runs_of("r1")[0]
    assert (run["name"], run["state_name"], run["deployment_id"]) == ("r1 tiny", "Completed", None)

    page.goto(f"{up.prefect}/runs/flow-run/{run['id']}")
    page.get_by_text("Completed").first.wait_for()
    shot(page, "run")
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_text("the stages of tiny").first.wait_for()
    shot(page, "artifacts")

    report = json.loads((up.runs / "tiny" / "report.json").read_text())
    entry = next(stage for stage in report["stages"] if stage["name"] == "r1")
    record = json.loads((up.runs / f"{entry['stage']}-{entry['fingerprint']}" / "record.json").read_text())
    client = MlflowClient(store_uri(up.runs))
    experiment = client.get_experiment_by_name("tiny")
    page.goto(f"{up.mlflow}/#/experiments/{experiment.experiment_id}/runs/{record['mlflow_run_id']}")
    heading = page.get_by_role("heading", name="r1 (reinforce)")
    heading.wait_for()
    shot(page, "mlflow")
    up_and_down = (("dev3", "dev3 (finetune)"), ("base", "base (adopt)"), ("zero", "zero (reinforce)"))
    for link, title in up_and_down:
        with page.expect_popup() as opened:
            page.get_by_role("link", name=link, exact=True).first.click()
        page = opened.value
        page.get_by_role("heading", name=title).wait_for()

    aliases = client.get_registered_model("tiny").aliases
    assert {"base", "zero", "dev1", "dev2", "dev3", "r1", "student_distilled", "student_rl"} <= set(aliases)
    traces = client.search_traces(locations=[experiment.experiment_id], max_results=100)
    first = next(trace for trace in traces if trace.info.tags["policy"] == "r1")
    assert {each.name for each in first.info.assessments} >= {"reward", "format", "advantage"}


def test_it_starts_again_on_what_was_there(up: Up, tmp_path: Path) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "flows", "up", "tiny", "--runs", str(up.runs)],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert second.returncode == 2
    assert second.stderr == f"r1: r1 up is running on {up.runs} already; end it there first\n"
    port = urlsplit(up.prefect).port
    taken = subprocess.run(
        [sys.executable, "-m", "flows", "up", "tiny", "--runs", str(tmp_path), "--prefect-port", str(port)],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert taken.returncode == 2
    assert taken.stderr == f"r1: port {port} is in use; choose another with --prefect-port\n"
