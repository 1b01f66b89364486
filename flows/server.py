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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from data.address import answers
from data.lineage import read_json
from data.parent import end_with_parent
from flows.shared import Installation

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
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_CLIENT_MAX_RETRIES": "8",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }


def _of_servers(port: int) -> dict[str, str]:
    """Settings of the servers that are started here."""
    return {
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "30",
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
    settings: Mapping[str, str]
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
        """End it with all its processes, if it was started: politely, then not."""
        self._closing.set()
        process = self._process
        if process is None:
            return
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
                env=os.environ | self.settings,
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


FOR_OTHERS = (
    "CANCELLATION_CLEANUP", "CLEANUP_RECONCILER", "FOREMAN", "LATE_RUNS", "PAUSE_EXPIRATIONS", "REPOSSESSOR",
    "SCHEDULER", "TRIGGERS",
)  # fmt: skip
"""Services of Prefect's server that look after deployments, workers and automations."""


def prefect(runs: Path, port: int, *, alone: bool = False) -> Server:
    """Prefect's server and pages; `alone` for a single run, without the services that look after others."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    off = {f"PREFECT_SERVER_SERVICES_{service}_ENABLED": "false" for service in FOR_OTHERS if alone}
    log = runs / ".prefect" / "server.log"
    return Server("Prefect", command, f"http://{HOST}:{port}", "/api/health", log, _of_servers(port) | off)


def mlflow(runs: Path, port: int) -> Server:
    """MLflow's server and pages, on the store that runs write."""
    store = (runs / ".mlflow").resolve()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{store / 'mlflow.db'}", "--artifacts-destination", str(store / "artifacts"),
    ]  # fmt: skip
    return Server("MLflow", command, f"http://{HOST}:{port}", "/health", store / "server.log", _of_servers(port))


@contextmanager
def running(*servers: Server, meanwhile: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Start servers side by side and wait until all answer; close them at the end of the block.

    `meanwhile` is called as soon as they have been started.
    """
    try:
        for server in servers:
            server.start()
        meanwhile()
        for server in servers:
            server.wait()
        yield
    finally:
        for server in servers:
            server.close()


UP = ".up.json"
"""Where `r1 up` tells other processes its addresses, in the runs folder."""


@contextmanager
def prefect_for(runs: Path, shared: Installation | None = None) -> Iterator[None]:
    """Point this process at a shared installation, at the servers of `r1 up`, or at a Prefect server of its own."""
    told = read_json(runs / UP) if (runs / UP).is_file() else {}
    if shared is None and told and answers(told["PREFECT_API_URL"] + "/health"):
        os.environ.update(told)
        yield
        return
    if shared is not None:
        os.environ.update(environment(runs, shared.server) | shared.environment())
        try:
            yield
        finally:
            _deliver()
        return
    own = prefect(runs, free_port(), alone=True)
    os.environ.update(environment(runs, own.url))
    with running(own, meanwhile=lambda: _prepare(runs)):
        try:
            yield
        finally:
            _deliver()


def _prepare(runs: Path) -> None:
    """Have ready what a run needs beside Prefect: the flows, and MLflow's store, which takes seconds to make."""
    import_module("flows.served")
    import_module("tasks.tracking").open_store(runs)


def _deliver() -> None:
    """Send what Prefect has queued in this process: it would be lost with a server that ends before."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=DELIVERY_LIMIT_S)


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
