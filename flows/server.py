"""Servers on loopback, without telemetry: Prefect's and MLflow's, kept alive as long as somebody needs them.

What a run did is kept in the runs folder (`.prefect`, `.mlflow`), so a server started later on that folder
shows it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from data.lineage import read_json
from data.parent import end_with_parent

HOST = "127.0.0.1"
START_LIMIT_S = 120.0
WATCH_EVERY_S = 1.0
DELIVERY_LIMIT_S = 30.0


def environment(runs: Path, prefect: str) -> dict[str, str]:
    """Settings of every process that talks to Prefect or MLflow; they must be set before the first import."""
    return {
        "R1_RUNS": str(runs.resolve()),
        "PREFECT_HOME": str((runs / ".prefect").resolve()),
        "PREFECT_API_URL": f"{prefect}/api",
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": prefect.rpartition(":")[2],
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "30",
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


@dataclass(slots=True)
class Server:
    """A server process that is started again when it dies, until it is closed."""

    name: str
    command: Sequence[str]
    url: str
    health: str
    log: Path
    _process: subprocess.Popen[bytes] | None = None
    _closing: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Start it and a watch over it; returns before it answers."""
        self._launch()
        threading.Thread(target=self._watch, name=f"watch over {self.name}", daemon=True).start()

    def wait(self) -> None:
        """Wait until it answers. Raises RuntimeError when it does not."""
        limit = time.monotonic() + START_LIMIT_S
        while time.monotonic() < limit:
            if answers(self.url + self.health):
                return
            time.sleep(0.1)
        raise RuntimeError(f"{self.name} did not answer at {self.url} in {START_LIMIT_S:.0f} s; see {self.log}")

    def close(self) -> None:
        """End it with all its processes: politely, then not."""
        self._closing.set()
        process = self._process
        assert process is not None
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, sign)
                process.wait(timeout=10)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue

    def _launch(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def _watch(self) -> None:
        while not self._closing.wait(WATCH_EVERY_S):
            if self._process is not None and self._process.poll() is not None:
                self._launch()


def prefect(runs: Path, port: int) -> Server:
    """Prefect's server and pages."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    return Server("Prefect", command, f"http://{HOST}:{port}", "/api/health", runs / ".prefect" / "server.log")


def mlflow(runs: Path, port: int) -> Server:
    """MLflow's server and pages, on the store that runs write."""
    store = (runs / ".mlflow").resolve()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{store / 'mlflow.db'}", "--artifacts-destination", str(store / "artifacts"),
    ]  # fmt: skip
    return Server("MLflow", command, f"http://{HOST}:{port}", "/health", store / "server.log")


@contextmanager
def running(*servers: Server) -> Iterator[None]:
    """Start servers side by side and wait until all answer; close them at the end of the block."""
    try:
        for server in servers:
            server.start()
        for server in servers:
            server.wait()
        yield
    finally:
        for server in servers:
            server.close()


UP = ".up.json"
"""Where `r1 up` tells other processes its addresses, in the runs folder."""


@contextmanager
def prefect_for(runs: Path) -> Iterator[None]:
    """Point this process at the servers of `r1 up`, or at a Prefect server of its own until the block ends."""
    told = read_json(runs / UP) if (runs / UP).is_file() else {}
    if told and answers(told["prefect"] + "/api/health"):
        os.environ.update(environment(runs, told["prefect"]) | {"R1_MLFLOW_URL": told["mlflow"]})
        yield
        return
    own = prefect(runs, free_port())
    os.environ.update(environment(runs, own.url))
    with running(own):
        try:
            yield
        finally:
            _deliver()


def _deliver() -> None:
    """Send what Prefect has queued in this process: it would be lost with a server that ends before."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=DELIVERY_LIMIT_S)


def answers(url: str) -> bool:
    """Whether a server answers at an address."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def check_free(port: int, option: str) -> None:
    """Raise ValueError when something listens on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise ValueError(f"port {port} is in use; choose another with {option}") from None
