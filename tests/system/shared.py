"""A shared installation for the tests: the services of `mlflow/compose.yaml` as processes of this machine.

The database is a real PostgreSQL, the S3-compatible storage is moto's server; Prefect, MLflow and the bucket are
started by the very commands and settings of the compose file.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data.address import answers
from flows.server import free_port

ROOT = Path(__file__).parents[2]
DATABASE = Path(shutil.which("initdb") or "/usr/lib/postgresql/15/bin/initdb").resolve().parent
SECRETS = {
    "R1_DATABASE_PASSWORD": "a-password",
    "R1_S3_KEY": "a-key",
    "R1_S3_SECRET": "a-secret",
    "R1_AUTH": "r1:a-word",
}


@dataclass
class Installed:
    """Servers that answer, and what a machine needs to reach them."""

    prefect: str
    mlflow: str
    depot: str
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]]
    commands: dict[str, tuple[list[str], dict[str, str], Path]]

    def start(self, name: str) -> None:
        """Start a server, again where it was killed, and wait until it answers."""
        command, environment, log = self.commands[name]
        with log.open("ab") as output:
            self.processes[name] = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        url = {"prefect": f"{self.prefect}/api/health", "mlflow": f"{self.mlflow}/health"}[name]
        limit = time.monotonic() + 120
        while not answers(url):
            assert self.processes[name].poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < limit, f"{name} does not answer; see {log}"
            time.sleep(0.2)

    def kill(self, name: str) -> None:
        """End a server at once, with all its processes."""
        os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes[name].wait()


def filled_in(text: str, settings: dict[str, str]) -> str:
    """Replace `${NAME}`, `${NAME:-default}` and `${NAME:?message}` as compose does."""

    def value(match: re.Match[str]) -> str:
        return settings.get(match[1]) or (match[2] or "").removeprefix(":-")

    return re.sub(r"\$\{(\w+)(:[-?][^}]*)?\}", value, text)


@contextmanager
def installed(folder: Path) -> Iterator[Installed]:
    """Run the services of the compose file; all of them have ended after the block."""
    ports = {name: free_port() for name in ("database", "store", "prefect", "mlflow")}
    ask = {"R1_PREFECT_PORT": str(ports["prefect"]), "R1_MLFLOW_PORT": str(ports["mlflow"])}
    text = filled_in((ROOT / "mlflow" / "compose.yaml").read_text(encoding="utf-8"), SECRETS | ask)
    for was, now in (
        ("database:5432", f"127.0.0.1:{ports['database']}"),
        ("store:7070", f"127.0.0.1:{ports['store']}"),
        ("0.0.0.0", "127.0.0.1"),
        ("/state", str(folder / "state")),
    ):
        text = text.replace(was, now)
    services: dict[str, Any] = yaml.safe_load(text)["services"]
    with ExitStack() as stack:
        stack.enter_context(_database(folder, ports["database"]))
        stack.enter_context(_store(folder, ports["store"]))
        own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "R1_"))}
        place = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = own | services["prefect"]["environment"] | {"PATH": place}
        subprocess.run(_command(services["bucket"]), env=environment, check=True)
        servers = {
            name: (_command(services[name]), environment, folder / f"{name}.log") for name in ("prefect", "mlflow")
        }
        worker = {name: value for name, value in environment.items() if name.startswith("AWS_")}
        worker["PREFECT_API_AUTH_STRING"] = SECRETS["R1_AUTH"]
        made = Installed(
            f"http://127.0.0.1:{ports['prefect']}", f"http://127.0.0.1:{ports['mlflow']}", "s3://r1-artifacts/runs",
            own | worker, {}, servers,
        )  # fmt: skip
        try:
            for name in servers:
                made.start(name)
            yield made
        finally:
            for name, process in made.processes.items():
                if process.poll() is None:
                    made.kill(name)


def _command(service: dict[str, Any]) -> list[str]:
    command: list[str] = service["command"]
    return [sys.executable if command[0] == "python" else command[0], *command[1:]]


@contextmanager
def _database(folder: Path, port: int) -> Iterator[None]:
    """A PostgreSQL of its own; it refuses to run as root, so root lends it to an ordinary user."""
    data = folder / "database"
    data.mkdir()
    user: dict[str, Any] = {}
    if os.getuid() == 0:
        user = {"user": "postgres"}
        shutil.chown(data, "postgres")
        for above in [data, *data.parents]:
            if above.owner() == "root" and not above.stat().st_mode & 0o001:
                above.chmod(above.stat().st_mode | 0o011)
    secret = folder / "secret"
    secret.write_text(SECRETS["R1_DATABASE_PASSWORD"])
    secret.chmod(0o644)
    quiet: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL, **user}
    ready = [DATABASE / "initdb", "--username=r1", f"--pwfile={secret}", "--auth=scram-sha-256", "-D", data]
    subprocess.run(ready, **quiet)
    command = [DATABASE / "postgres", "-D", data, "-p", str(port), "-k", data, "-c", "listen_addresses=127.0.0.1"]
    with (folder / "database.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, **user)
    try:
        login = {"PGPASSWORD": SECRETS["R1_DATABASE_PASSWORD"], "PATH": os.environ["PATH"]}
        psql = ["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "r1", "-d", "postgres", "-q"]
        limit = time.monotonic() + 60
        while subprocess.run([*psql, "-c", "SELECT 1"], env=login, capture_output=True).returncode:
            assert time.monotonic() < limit, (folder / "database.log").read_text()
            time.sleep(0.2)
        subprocess.run([*psql, "-f", ROOT / "mlflow" / "databases.sql"], env=login, check=True)
        yield
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(timeout=30)


@contextmanager
def _store(folder: Path, port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "store.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        limit = time.monotonic() + 60
        while not answers(f"http://127.0.0.1:{port}/moto-api/"):
            assert time.monotonic() < limit, (folder / "store.log").read_text()
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)
