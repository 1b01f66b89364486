"""Flow runs whose process is gone are marked Crashed, so that they can be retried; one that lives never is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.sorting import FlowRunSort, TaskRunSort
from prefect.states import Crashed, Running

from data.lock import locked

OWNERS = ".owners"
"""A lock a flow run, held by the process that runs it; a run whose lock is free has lost its owner."""

PAGE = 200
_OPEN = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
_suspects: set[UUID] = set()


@contextmanager
def owned(runs: Path, run_id: str) -> Iterator[None]:
    """Hold the lock of a flow run; what an earlier attempt left as Running is marked Crashed."""
    path = runs / OWNERS / run_id
    with locked(path):
        with get_client(sync_client=True) as client:
            crash_tasks(client, UUID(run_id))
        yield
        path.unlink(missing_ok=True)


def sweep(runs: Path, at_start: bool = False, shared: bool = False) -> list[UUID]:
    """Crash the ownerless runs; returns their ids.

    A run takes its lock some moments after it says Running. So it has to be found without one twice in a row,
    unless nothing that could own it has been started yet. Of a server that other machines share, only runs that
    began here are looked at: those that have a lock here, free or held.
    """
    with get_client(sync_client=True) as client:
        states = _OPEN if at_start else [StateType.RUNNING, StateType.CANCELLING]
        wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)))
        open_runs = client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.ID_DESC, limit=PAGE)
        ours = [run.id for run in open_runs if not shared or (runs / OWNERS / str(run.id)).is_file()]
        ownerless = {run_id for run_id in ours if not is_owned(runs, run_id)}
        gone = ownerless if at_start else ownerless & _suspects
        _suspects.clear()
        _suspects.update(ownerless - gone)
        for run_id in gone:
            _crash(client, run_id)
        if shared:
            _revive(client, runs)
        return sorted(gone)


def _revive(client: SyncPrefectClient, runs: Path) -> None:
    """Say Running of what lives here, though the server took it for crashed while it could not hear of it."""
    for path in sorted((runs / OWNERS).glob("*")):
        run_id = UUID(path.name)
        if is_owned(runs, run_id) and (state := client.read_flow_run(run_id).state) and state.is_crashed():
            client.set_flow_run_state(run_id, Running(message="its machine was out of reach"), force=True)


def is_owned(runs: Path, run_id: UUID) -> bool:
    """Whether a process of this machine runs a flow run; the lock of one that is gone is taken away."""
    path = runs / OWNERS / str(run_id)
    if not path.is_file():
        return False
    try:
        with locked(path, wait=False):
            pass
    except BlockingIOError:
        return True
    path.unlink(missing_ok=True)
    return False


def _crash(client: SyncPrefectClient, run_id: UUID) -> None:
    state: State[None] = Crashed(message="the process that ran it is gone; Retry goes on from its last saved step")
    client.set_flow_run_state(run_id, state, force=True)
    crash_tasks(client, run_id)


def crash_tasks(client: SyncPrefectClient, run_id: UUID) -> None:
    """Mark what an earlier attempt of a flow run left as Running."""
    running = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING])))
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    tasks = client.read_task_runs(flow_run_filter=of_run, task_run_filter=running, sort=TaskRunSort.ID_DESC, limit=PAGE)
    for task in tasks:
        client.set_task_run_state(task.id, Crashed(message="its process is gone"), force=True)
