"""`r1 up`: Prefect, MLflow and a runner of the deployments, until Ctrl-C; and the end of runs that lost their owner."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from data.lineage import write_json
from data.lock import locked
from flows import recipe as recipes
from flows import server
from flows.plan import NO_DEVICE
from flows.recipe import Recipe, settings_of
from flows.shared import Installation, watch_heartbeats

SWEEP_EVERY_S = 15.0
LOCK = ".up.lock"


def up(runs: Path, names: Sequence[str], prefect_port: int, mlflow_port: int) -> None:
    """Serve recipes until this process is told to end. Raises ValueError for a port in use, or a second `r1 up`."""
    served = [recipes.load(name) for name in names]
    if prefect_port == mlflow_port:
        raise ValueError(f"--prefect-port and --mlflow-port are both {mlflow_port}; they must differ")
    if (runs / LOCK).exists():
        with _only_one(runs):
            pass
    server.check_free(prefect_port, "--prefect-port")
    server.check_free(mlflow_port, "--mlflow-port")
    runs.mkdir(parents=True, exist_ok=True)
    with _only_one(runs):
        prefect, mlflow = server.prefect(runs, prefect_port), server.mlflow(runs, mlflow_port)
        told = server.environment(runs, prefect.url) | {"R1_MLFLOW_URL": mlflow.url}
        os.environ.update(told)
        print("starting Prefect and MLflow ...", flush=True)
        with server.running(prefect, mlflow):
            _serve(runs, deployments(served), told)


def join(runs: Path, names: Sequence[str], shared: Installation, device: str) -> None:
    """Work for a shared installation until this process is told to end, on the stages that fit this device."""
    served = [recipes.load(name) for name in names]
    runs.mkdir(parents=True, exist_ok=True)
    with _only_one(runs):
        told = server.environment(runs, shared.server) | shared.environment()
        os.environ.update(told | {"R1_DEVICE": device})
        watch_heartbeats()
        _serve(runs, [*deployments(served), *(stages_on(served, device) if device != NO_DEVICE else ())], told)


def _serve(runs: Path, deployed: Sequence[Any], told: dict[str, str]) -> None:
    from prefect import serve

    from flows.sweep import sweep

    shared = "R1_SERVER" in told
    sweep(runs, at_start=True, shared=shared)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SWEEP_EVERY_S):
            with suppress(httpx.HTTPError):  # the server is away; next time
                sweep(runs, shared=shared)

    threading.Thread(target=watch, name="sweep", daemon=True).start()
    write_json(runs / server.UP, told)
    pages = told["PREFECT_API_URL"].removesuffix("/api")
    print(f"trigger and watch   {pages}/deployments\naudit               {told['R1_MLFLOW_URL']}", flush=True)
    print("Ctrl-C ends " + ("this worker" if shared else "all of it"), flush=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts with `&`
    warnings.filterwarnings("ignore", message="coroutine 'Runner.astop'")  # Prefect's own handler of SIGTERM
    try:
        serve(*deployed, limit=1, pause_on_shutdown=False, print_starting_message=False)
    except KeyboardInterrupt:
        pass
    finally:
        done.set()
        (runs / server.UP).unlink(missing_ok=True)
        with suppress(httpx.HTTPError):
            sweep(runs, at_start=True, shared=shared)


def deployments(served: Sequence[Recipe]) -> list[Any]:
    """One deployment a flow and recipe; its form is filled in with the recipe."""
    from flows.served import STAGES, r1

    return [
        _deployment(flow, recipe, recipe.name)
        for recipe in served
        for flow in (r1, *(STAGES if recipe.flow == "r1" else ()))
    ]


def stages_on(served: Sequence[Recipe], device: str) -> list[Any]:
    """Deployments by which a run on another machine has single stages made on this one's kind of device."""
    from flows.served import one_stage

    return [_deployment(one_stage, recipe, f"{recipe.name}-{device.partition(':')[0]}") for recipe in served]


def _deployment(flow: Any, recipe: Recipe, name: str) -> Any:
    from prefect.types.entrypoint import EntrypointType

    return flow.to_deployment(
        name,
        parameters={"recipe": settings_of(recipe)},
        description=recipe.description,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


@contextmanager
def _only_one(runs: Path) -> Iterator[None]:
    try:
        with locked(runs / LOCK, wait=False):
            yield
    except BlockingIOError:
        raise ValueError(f"r1 up is running on {runs} already; end it there first") from None
