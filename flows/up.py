"""`r1 up`: Prefect, MLflow and a runner of the deployments, until Ctrl-C; and the end of runs that lost their owner."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.lineage import write_json
from data.lock import locked
from flows import recipe as recipes
from flows import server
from flows.recipe import Recipe, settings_of

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
        os.environ.update(server.environment(runs, prefect.url) | {"R1_MLFLOW_URL": mlflow.url})
        print("starting Prefect and MLflow ...", flush=True)
        with server.running(prefect, mlflow):
            _serve(runs, served, prefect.url, mlflow.url)


def _serve(runs: Path, served: Sequence[Recipe], prefect: str, mlflow: str) -> None:
    from prefect import serve

    from flows.sweep import sweep

    sweep(runs, at_start=True)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SWEEP_EVERY_S):
            sweep(runs)

    threading.Thread(target=watch, name="sweep", daemon=True).start()
    write_json(runs / server.UP, {"prefect": prefect, "mlflow": mlflow, "pid": os.getpid()})
    print(f"trigger and watch   {prefect}/deployments\naudit               {mlflow}\nCtrl-C ends all of it", flush=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts with `&`
    warnings.filterwarnings("ignore", message="coroutine 'Runner.astop'")  # Prefect's own handler of SIGTERM
    try:
        serve(*deployments(served), limit=1, pause_on_shutdown=False, print_starting_message=False)
    except KeyboardInterrupt:
        pass
    finally:
        done.set()
        (runs / server.UP).unlink(missing_ok=True)
        sweep(runs, at_start=True)


def deployments(served: Sequence[Recipe]) -> list[Any]:
    """One deployment a flow and recipe; its form is filled in with the recipe."""
    from prefect.types.entrypoint import EntrypointType

    from flows.served import STAGES, r1

    return [
        flow.to_deployment(
            recipe.name,
            parameters={"recipe": settings_of(recipe)},
            description=recipe.description,
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        for recipe in served
        for flow in (r1, *(STAGES if recipe.flow == "r1" else ()))
    ]


@contextmanager
def _only_one(runs: Path) -> Iterator[None]:
    try:
        with locked(runs / LOCK, wait=False):
            yield
    except BlockingIOError:
        raise ValueError(f"r1 up is running on {runs} already; end it there first") from None
