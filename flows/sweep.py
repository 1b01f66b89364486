"""Flow runs whose process is gone are marked Crashed, so that they can be retried; one that lives never is."""

from __future__ import annotations

import fcntl
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
from prefect.states import Crashed

from flows.served import OWNERS

_OPEN = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
_suspects: set[UUID] = set()


def sweep(runs: Path, at_start: bool = False) -> list[UUID]:
    """Crash the ownerless runs; returns their ids.

    A run takes its lock some moments after it says Running. So it has to be found without one twice in a row,
    unless nothing that could own it has been started yet.
    """
    with get_client(sync_client=True) as client:
        states = _OPEN if at_start else [StateType.RUNNING, StateType.CANCELLING]
        wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)))
        ownerless = {run.id for run in client.read_flow_runs(flow_run_filter=wanted) if not _owned(runs, run.id)}
        gone = ownerless if at_start else ownerless & _suspects
        _suspects.clear()
        _suspects.update(ownerless - gone)
        for run_id in gone:
            _crash(client, run_id)
        return sorted(gone)


def _owned(runs: Path, run_id: UUID) -> bool:
    path = runs / OWNERS / str(run_id)
    if not path.is_file():
        return False
    with path.open("r+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    path.unlink(missing_ok=True)
    return False


def _crash(client: SyncPrefectClient, run_id: UUID) -> None:
    state: State[None] = Crashed(message="the process that ran it is gone; Retry goes on from its last saved step")
    client.set_flow_run_state(run_id, state, force=True)
    running = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING])))
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    for task in client.read_task_runs(flow_run_filter=of_run, task_run_filter=running):
        client.set_task_run_state(task.id, state, force=True)
