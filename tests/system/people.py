"""What the browser tests share: the servers as people reach them, waiting, form fields, pictures for the README."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos import descendants


@dataclass(frozen=True)
class Up:
    """A running `r1 up`."""

    process: subprocess.Popen[str]
    runs: Path
    prefect: str
    mlflow: str
    login: str = ""

    def call(self, path: str, body: Any = None) -> Any:
        """Ask Prefect's API."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        if self.login:
            headers["authorization"] = f"Basic {base64.b64encode(self.login.encode()).decode()}"
        request = urllib.request.Request(f"{self.prefect}/api{path}", data, headers)
        for attempt in range(5):  # 503: the server is busy
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 503 or attempt == 4:
                    raise
                time.sleep(2)
        raise AssertionError("not reached")

    def deployment(self, flow: str) -> dict[str, Any]:
        return self.call(f"/deployments/name/{flow}/tiny")

    def runs_of(self, flow: str) -> list[dict[str, Any]]:
        """The flow runs of a flow, the newest first."""
        return self.call("/flow_runs/filter", {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_DESC"})

    def state(self, run: str) -> str:
        return str(self.call(f"/flow_runs/{run}")["state_name"])


def wait_for(what: Callable[[], Any], seconds: float = 180) -> Any:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError(f"did not come true in {seconds} s")


def shot(page: Any, name: str) -> None:
    if folder := os.environ.get("R1_SCREENSHOTS"):
        page.wait_for_timeout(1500)
        page.screenshot(path=Path(folder) / f"{name}.png")


def field(page: Any, label: str) -> Any:
    """The input under the first label that begins so."""
    found = page.locator("label", has_text=label).first
    return found.locator("xpath=ancestor::div[contains(@class, 'p-label ')][1]").locator("input")


def engine(up: Up) -> int:
    """The process of the flow run that the runner has started."""
    for pid in descendants(up.process.pid):
        if b"prefect.engine" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError("no flow run is being executed")
