"""A machine's place in a shared installation: servers of its own elsewhere, artifacts in a depot, other workers.

Where `--server` (`R1_SERVER`) names a Prefect server, runs are recorded there and in the MLflow server beside it,
and finished artifacts go to the depot (`R1_DEPOT`), from where any machine takes them. A heavy stage whose device
is not on the machine that runs the flow is sent, as a flow run of its own, to a worker that has it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit
from uuid import UUID

import httpx

from data.address import answers, host_of
from data.depot import Depot
from data.lineage import Artifact, Json
from flows.recipe import Recipe, settings_of
from tasks.stage import Site, Step

EXAMPLE = "http://host:4200"
KINDS = ("cuda", "cpu")
"""Kinds of devices that a heavy stage may need, the one that is preferred first."""

LEASE_S = 60.0
ASK_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Installation:
    """The addresses of a shared installation. Without a depot its machines share the runs folder itself."""

    server: str
    mlflow: str
    depot: str = ""

    @classmethod
    def at(cls, server: str, mlflow: str = "", depot: str = "") -> Installation:
        """The installation of these addresses; MLflow is on the same host, port 5000, where none is given.

        Raises ValueError for what is no address, and where nobody answers.
        """
        server, mlflow = server.rstrip("/").removesuffix("/api"), mlflow.rstrip("/")
        host = host_of(server, "--server", EXAMPLE)
        mlflow = mlflow or f"{urlsplit(server).scheme}://{host}:5000"
        host_of(mlflow, "--mlflow", EXAMPLE)
        for name, url, health in (("Prefect", server, "/api/health"), ("MLflow", mlflow, "/health")):
            if not answers(url + health):
                raise ValueError(f"no {name} server answers at {url}{health}")
        told = os.environ.get("PREFECT_API_AUTH_STRING", "")
        user, _, password = told.partition(":")
        if httpx.get(f"{server}/api/admin/version", auth=(user, password)).status_code == 401:
            fault = "takes another password" if told else "asks for a password"
            raise ValueError(f"Prefect at {server} {fault}; set PREFECT_API_AUTH_STRING=user:password")
        if depot:
            Depot(depot).check()
        return cls(server, mlflow, depot)

    @classmethod
    def here(cls) -> Installation | None:
        """The installation that this process was started for, by its environment."""
        server = os.environ.get("R1_SERVER", "")
        return cls(server, os.environ["R1_MLFLOW"], os.environ.get("R1_DEPOT", "")) if server else None

    def artifacts(self) -> Depot | None:
        """The depot, where there is one."""
        return Depot(self.depot) if self.depot else None

    def environment(self) -> dict[str, str]:
        """What processes started for this installation find in their environment."""
        return {
            "R1_SERVER": self.server,
            "R1_MLFLOW": self.mlflow,
            "R1_MLFLOW_URL": self.mlflow,
            "R1_DEPOT": self.depot,
        }


class SharedSite(Site):
    """Takes and puts artifacts in the depot, and sends heavy stages to a worker where `kind` is a device not here.

    `pipeline` is the run in MLflow that what is made elsewhere belongs to as well.
    """

    def __init__(
        self, at: Installation, recipe: Recipe, kind: str, save_every_s: float, processes: int, pipeline: str
    ) -> None:
        self.depot = at.artifacts()
        self.recipe, self.kind, self.pipeline = recipe, kind, pipeline
        self.save_every_s, self.processes = save_every_s, processes

    def take(self, artifact: Artifact) -> bool:
        """Fetch an artifact from the depot."""
        return self.depot is not None and self.depot.take(artifact)

    def put(self, artifact: Artifact) -> None:
        """Put an artifact into the depot."""
        if self.depot is not None:
            self.depot.put(artifact)

    def keep(self, artifact: Artifact) -> None:
        """Mirror what a stage has saved in the depot; where that fails, this machine alone can go on from there."""
        if self.depot is not None:
            with suppress(OSError):
                self.depot.keep(artifact)

    def regain(self, artifact: Artifact) -> None:
        """Go on from what the depot holds of an unfinished artifact."""
        if self.depot is not None:
            self.depot.regain(artifact)

    def alone(self, artifact: Artifact) -> AbstractContextManager[None]:
        """Hold the only slot of a limit that the server keeps; a machine that is gone loses it after a minute."""
        return _slot(f"r1-{artifact.key}")

    def send(self, step: Step) -> bool:
        """Have a stage made by a worker with a device of the kind asked. Raises RuntimeError where that fails."""
        if not self.kind:
            return False
        parameters = {
            "recipe": settings_of(self.recipe),
            "name": step.artifact.name,
            "device": "" if self.kind == "any" else self.kind,
            "save_every_s": self.save_every_s,
            "processes": self.processes,
            "pipeline": self.pipeline,
        }
        _follow(_worker_for(self.recipe.name, self.kind), parameters, step.artifact.name)
        if not step.artifact.done and not self.take(step.artifact):
            raise RuntimeError(f"a worker made {step.artifact.key}, but it is neither here nor in the depot")
        return True


def _worker_for(recipe: str, kind: str) -> UUID:
    """The deployment by which workers make single stages of a recipe. Raises ValueError where there is none."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    kinds = KINDS if kind == "any" else (kind,)
    with get_client(sync_client=True) as client:
        for each in kinds:
            with suppress(ObjectNotFound):
                return client.read_deployment_by_name(f"stage/{recipe}-{each}").id
    asked = " or ".join(kinds)
    raise ValueError(f"no worker makes stages of {recipe} on {asked}; start one: `r1 up {recipe} --server ...` there")


def _follow(deployment: UUID, parameters: dict[str, Json], name: str) -> None:
    """Start a flow run as a child of the task that runs now, and wait for its end; it is cancelled if we are."""
    from prefect.client.orchestration import get_client
    from prefect.runtime import task_run
    from prefect.states import Cancelling

    with get_client(sync_client=True) as client:
        parent = UUID(str(task_run.id))
        run_id = client.create_flow_run_from_deployment(deployment, parameters=parameters, parent_task_run_id=parent).id
        try:
            while (state := client.read_flow_run(run_id).state) is None or not state.is_final():
                time.sleep(ASK_EVERY_S)
        except BaseException:
            with suppress(Exception):
                client.set_flow_run_state(run_id, Cancelling())
            raise
    if not state.is_completed():
        raise RuntimeError(f"{name} ended as {state.name} on its worker: {state.message}; Retry goes on from there")


def _until_there() -> None:
    """Wait while the server is away: a client that has not reached it before gives up at once."""
    while not answers(f"{os.environ['PREFECT_API_URL']}/health"):
        time.sleep(ASK_EVERY_S)


@contextmanager
def _slot(name: str) -> Iterator[None]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.concurrency.sync import concurrency
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    _until_there()
    with get_client(sync_client=True) as client:
        with suppress(ObjectAlreadyExists):
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
        with concurrency(name, lease_duration=LEASE_S, raise_on_lease_renewal_failure=False):
            yield
            _until_there()
        with suppress(ObjectNotFound):  # made: nobody needs to wait any more
            client.delete_global_concurrency_limit_by_name(name)


CRASH_AFTER_S = 90
HEARTBEAT = "prefect.flow-run.heartbeat"
ENDS = ("Completed", "Failed", "Cancelled", "Crashed")


def watch_heartbeats() -> None:
    """Have the server mark runs as Crashed whose machine has not been heard of for a while, once for all workers."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    watch = AutomationCore(
        name="r1: a run whose machine is gone is Crashed",
        trigger=EventTrigger(
            posture=Posture.Proactive,
            after={HEARTBEAT},
            expect={HEARTBEAT, *(f"prefect.flow-run.{end}" for end in ENDS)},
            for_each={"prefect.resource.id"},
            threshold=1,
            within=timedelta(seconds=CRASH_AFTER_S),
        ),
        actions=[
            ChangeFlowRunState(state=StateType.CRASHED, message="its machine is gone; Retry goes on where it stopped")
        ],
    )
    with get_client(sync_client=True) as client:
        if not client.read_automations_by_name(watch.name):
            client.create_automation(watch)
