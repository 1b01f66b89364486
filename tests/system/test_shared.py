"""A shared installation on PostgreSQL and S3: one machine that orders the stages and one that computes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from data.depot import Depot
from data.lineage import TIMES, Artifact, read_json
from tests import chaos
from tests.chaos import alive, descendants
from tests.system.people import Up, field, wait_for
from tests.system.shared import SECRETS, Installed, installed

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]


@dataclass
class Worker:
    """A machine of its own: a runs folder, and `r1 up --server`."""

    process: subprocess.Popen[str]
    runs: Path

    def end(self) -> None:
        """Ctrl-C, and nothing of it is left."""
        family = descendants(self.process.pid)
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(timeout=60) == 0
        wait_for(lambda: not alive(family), 15)

    def die(self) -> None:
        """All of the machine's processes are gone at once."""
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    with installed(tmp_path_factory.mktemp("shared")) as started:
        yield started


@pytest.fixture(scope="module")
def settings(servers: Installed) -> dict[str, str]:
    """The environment that points a machine at the installation."""
    told = {"R1_SERVER": servers.prefect, "R1_MLFLOW": servers.mlflow, "R1_DEPOT": servers.depot}
    return servers.environment | told


@pytest.fixture
def work(settings: dict[str, str]) -> Iterator[Callable[[Path, str], Worker]]:
    """Lets a machine join, with a device for heavy stages or `none`; those that are left at the end die."""
    joined: list[Worker] = []

    def join(runs: Path, device: str) -> Worker:
        joined.append(_join(runs, device, settings))
        return joined[-1]

    yield join
    for each in joined:
        if each.process.poll() is None:
            each.die()


def _join(runs: Path, device: str, settings: dict[str, str]) -> Worker:
    command = [sys.executable, "-m", "flows", "up", "tiny", "--runs", str(runs), "--device", device]
    process = subprocess.Popen(command, cwd=ROOT, env=settings, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Ctrl-C"):
            return Worker(process, runs)
    raise AssertionError(f"r1 up ended with {process.wait()}")


def test_wrong_addresses_are_one_line(servers: Installed, settings: dict[str, str], tmp_path: Path) -> None:
    def told(**changes: str) -> str:
        command = [sys.executable, "-m", "flows", "up", "tiny", "--runs", str(tmp_path / "runs")]
        done = subprocess.run(command, cwd=ROOT, env=settings | changes, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2, done.stderr
        assert not (tmp_path / "runs").exists()
        return done.stderr

    assert told(R1_SERVER="here:4200") == "r1: --server 'here:4200' is no address; give one such as http://host:4200\n"
    nobody = "http://127.0.0.1:9"
    assert told(R1_SERVER=nobody) == f"r1: no Prefect server answers at {nobody}/api/health\n"
    assert told(R1_MLFLOW=nobody) == f"r1: no MLflow server answers at {nobody}/health\n"
    asks = "set PREFECT_API_AUTH_STRING=user:password\n"
    assert told(PREFECT_API_AUTH_STRING="") == f"r1: Prefect at {servers.prefect} asks for a password; {asks}"
    assert told(PREFECT_API_AUTH_STRING="a:b") == f"r1: Prefect at {servers.prefect} takes another password; {asks}"
    assert told(R1_DEPOT="s3:/x") == "r1: no depot 's3:/x': give s3://bucket/prefix or file:///folder\n"
    assert told(R1_DEPOT="s3://not-there/x").startswith("r1: depot s3://not-there/x cannot be written to: ")


def test_a_stage_goes_to_a_machine_with_the_device_and_another_one_goes_on_when_that_is_gone(
    servers: Installed,
    settings: dict[str, str],
    work: Callable[[Path, str], Worker],
    page: Any,
    tmp_path: Path,
) -> None:
    orders = work(tmp_path / "orders", "none")
    login = SECRETS["R1_AUTH"]
    up = Up(orders.process, orders.runs, servers.prefect, servers.mlflow, login)
    wait_for(lambda: up.call("/deployments/count", {}) == 9)
    page.goto(f"{up.prefect}/deployments")
    page.locator("input").first.fill(login)
    page.keyboard.press("Enter")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="r1-zero", exact=True))
    row.get_by_role("link", name="tiny").click()
    page.get_by_role("button", name="Run", exact=True).last.click()
    page.get_by_text("Custom run").click()
    field(page, "Max Steps").fill("80")
    field(page, "save_every_s").fill("0")
    page.get_by_role("button", name="Submit").click()
    run = wait_for(lambda: up.runs_of("r1-zero"))[0]
    wait_for(lambda: up.state(run["id"]) == "Failed")  # nobody has a device yet
    assert "no worker makes stages of tiny on cuda or cpu" in up.call(f"/flow_runs/{run['id']}")["state"]["message"]

    computes = work(tmp_path / "computes", "cpu")
    wait_for(lambda: up.call("/deployments/count", {}) == 10)
    computes.end()  # known now, and away, so that the other takes the flow
    retry(page, up, run["id"])
    [child] = wait_for(lambda: up.runs_of("stage"))
    computes = work(tmp_path / "computes", "cpu")
    wait_for(lambda: heard_of(up, child["id"]))
    [metrics] = wait_for(lambda: list(computes.runs.glob("reinforce-*/metrics.jsonl")))
    folder = tmp_path / "another" / metrics.parent.name
    wait_for(lambda: len(metrics.read_text().splitlines()) >= 8)
    computes.die()
    spent = (metrics.parent / TIMES).read_text().splitlines()
    wait_for(lambda: up.state(child["id"]) == "Crashed", 300)  # its heartbeat is missed
    wait_for(lambda: up.state(run["id"]) == "Failed")
    assert "its machine is gone" in up.call(f"/flow_runs/{run['id']}")["state"]["message"]

    retry(page, up, run["id"])
    wait_for(lambda: len(up.runs_of("stage")) == 2)
    computes = work(tmp_path / "another", "cpu")
    wait_for(lambda: up.state(run["id"]) == "Completed", 600)
    record = read_json(folder / "record.json")
    client = MlflowClient(servers.mlflow)
    made = client.get_run(record["mlflow_run_id"])
    assert made.data.tags["attempts"] == "2"
    assert made.data.tags["folder"] == f"{servers.depot}/{folder.name}"
    history = client.get_metric_history(made.info.run_id, "grad_norm")
    assert [point.step for point in history] == [*range(1, 81)]
    assert (folder / TIMES).read_text().splitlines()[0] == spent[0]  # no two steps take the same nanoseconds

    for each in (orders, computes):
        each.end()
    assert read_json(orders.runs / folder.name / "record.json") == record  # fetched from the depot
    os.environ.update({name: value for name, value in settings.items() if name.startswith("AWS_")})
    third = Artifact("zero", "reinforce", record["fingerprint"], tmp_path / "third")
    assert Depot(servers.depot).take(third)
    assert read_json(third.folder / "record.json") == record


def retry(page: Any, up: Up, run: str) -> None:
    page.goto(f"{up.prefect}/runs/flow-run/{run}")
    page.get_by_role("button", name="Retry").click()
    page.get_by_role("dialog").get_by_role("button", name="Retry").click()


def heard_of(up: Up, run: str) -> bool:
    """Whether the server has had a heartbeat of a flow run."""
    wanted = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run}"]}}
    return bool(up.call("/events/filter", {"filter": wanted})["events"])


def test_killed_again_and_again_with_servers_that_die_it_makes_the_same(
    servers: Installed, settings: dict[str, str], tmp_path: Path
) -> None:
    whole, disturbed, log = tmp_path / "whole", tmp_path / "disturbed", tmp_path / "log.txt"
    assert chaos.start(whole, log).wait() == 0
    stages = read_json(whole / "tiny" / "report.json")["stages"]
    r1 = next(index for index, stage in enumerate(stages) if stage["name"] == "r1")
    kills = chaos.schedule(stages[:r1], 3, seed=4)
    told = list(chaos.disturb(disturbed, log, stages, kills, 4, settings))
    assert len(told) == 3
    assert "SURVIVED" not in "".join(told)

    last = chaos.start(disturbed, log, settings)
    assert chaos.wait_until_begun(last, disturbed / f"{stages[r1]['stage']}-{stages[r1]['fingerprint']}")
    for name in ("prefect", "mlflow"):
        servers.kill(name)
    time.sleep(20)
    for name in ("prefect", "mlflow"):
        servers.start(name)
    assert last.wait(timeout=600) == 0, log.read_text()[-3000:]
    assert chaos.differences(whole, disturbed, stages, servers.mlflow) == []
