"""One function in several processes of this host, started by torch's elastic launcher, the one of `torchrun`.

    launch(2, "cpu", function, (argument,), hear)  # -> function(argument, tell=...) of rank 0

The processes are a process group (gloo on a CPU, NCCL on GPUs, one GPU a rank). Rank 0 may `tell` the caller
something while it works, and goes on when that was heard. They end with the caller, and when one dies all end.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import distributed
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from model import ranks

Tell = Callable[..., None]
"""tell(what, *values): let the caller of `launch` know something."""

GRACE_S = 1.0
"""After a first failure others may be heard of, so that the cause of all is told and not what followed from it."""


class RankDied(ChildProcessError):
    """A rank ended without a word; the message names it and the signal."""


@dataclass(frozen=True, slots=True)
class Rank:
    """A process that has reported for work."""

    number: int
    pid: int
    line: Connection


def launch(size: int, device: str, function: Callable[..., Any], arguments: Sequence[object], hear: Tell) -> Any:
    """Call a function of a module in `size` processes, and return what it gives in rank 0.

    `hear(what, *values)` is called with what rank 0 tells. Raises what was raised in a rank, with a note that names
    it, the first where several failed; RankDied for one that was killed. No process is left behind.
    """
    threads = max(1, torch.get_num_threads() // size)
    with TemporaryDirectory(prefix="r1-ranks-") as place, socket.socket(socket.AF_UNIX) as door:
        door.bind(f"{place}/door")
        door.listen(size)
        door.settimeout(0.1)
        crew: list[Rank] = []
        with ThreadPoolExecutor(1) as launcher:
            ended = launcher.submit(_elastic, size, Path(place))
            try:
                for _ in range(size):
                    crew.append(_welcome(door, ended))
                for each in crew:
                    with suppress(OSError):  # dead already, which listening tells
                        _say(each.line, device, threads, function, arguments)
                return _listen(crew, hear, ended)
            except BaseException:
                for each in crew:
                    _end(each)
                raise
            finally:
                door.close()  # who has not come yet finds nobody
                for each in crew:
                    each.line.close()


def _elastic(size: int, place: Path) -> None:
    """Start the ranks, and stay until they have ended. Raises ChildFailedError where one failed."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what failed is told by `launch`
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=size, run_id="r1", max_restarts=0, monitor_interval=0.1,
        rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", local_addr="127.0.0.1",
        logs_specs=DefaultLogsSpecs(log_dir=str(place)),
    )  # fmt: skip
    work = (
        f"import sys; sys.path[:] = {sys.path!r}; from data.parent import die_with_parent; die_with_parent(); "
        f"from tasks.launch import work; work({str(place / 'door')!r})"
    )
    elastic_launch(config, sys.executable)("-c", work)


def _welcome(door: socket.socket, ended: Future[None]) -> Rank:
    """Wait for the next rank to report. Raises RankDied where one ended before."""
    while not ended.done():
        with suppress(TimeoutError, EOFError, ConnectionError):
            line = Connection(door.accept()[0].detach())
            number, pid = _heard(line)
            return Rank(number, pid, line)
    raise RankDied("a rank ended before it began to work; what it wrote is above")


def _end(rank: Rank) -> None:
    with suppress(ProcessLookupError):
        os.kill(rank.pid, signal.SIGKILL)


def _listen(crew: Sequence[Rank], hear: Tell, ended: Future[None]) -> Any:
    """Hear what the ranks tell until all are done; returns the result of rank 0."""
    working = {each.line: each for each in crew}
    results: dict[int, Any] = {}
    failures: list[tuple[float, Rank, BaseException]] = []
    dead: list[Rank] = []
    limit: float | None = None
    while working and (limit is None or time.monotonic() < limit):
        for line in wait(list(working), None if limit is None else limit - time.monotonic()):
            rank = working[line]  # type: ignore[index]  # they are all connections
            try:
                what, *values = _heard(rank.line)
            except (EOFError, ConnectionError):
                dead.append(working.pop(rank.line))
                continue
            if what in ("done", "failed"):
                del working[rank.line]
            if what == "done":
                results[rank.number] = values[0]
            elif what == "failed":
                failures.append((values[0], rank, values[1]))
            else:
                hear(what, *values)
                with suppress(OSError):  # dead meanwhile, which the next look sees
                    _say(rank.line)
        if limit is None and (dead or failures):
            limit = time.monotonic() + GRACE_S
    if dead:
        for each in working.values():
            _end(each)
        raise _death(dead[0], len(crew), ended)
    if failures:
        raise min(failures, key=lambda failure: failure[0])[2]
    return results[0]


def _death(rank: Rank, size: int, ended: Future[None]) -> RankDied:
    how = "ended"
    error = ended.exception()
    failure = error.failures.get(rank.number) if isinstance(error, ChildFailedError) else None
    if failure is not None and failure.exitcode < 0:
        how = f"was killed by {signal.Signals(-failure.exitcode).name}"
    elif failure is not None:
        how = f"ended with exit code {failure.exitcode}"
    return RankDied(f"rank {rank.number} of {size} (process {rank.pid}) {how}, and the others were ended")


def work(door: str) -> None:
    """Be a rank: report to `launch`, do what it says, and stay after a failure until it ends all ranks."""
    number, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with socket.socket(socket.AF_UNIX) as knocking:
        knocking.connect(door)
        line = Connection(knocking.detach())
    _say(line, number, os.getpid())
    device, threads, function, arguments = _heard(line)

    def tell(what: str, *values: object) -> None:
        if number == 0:
            _say(line, what, *values)
            _heard(line)

    try:
        torch.set_num_threads(threads)
        _join(device, number)
        result = function(*arguments, tell=tell)
        ranks.wait()
        _say(line, "done", result if number == 0 else None)
    except BaseException as error:
        when = time.monotonic()
        error.add_note(f"in rank {number} of {size}:\n{traceback.format_exc()}")
        with suppress(OSError, EOFError):  # its caller is gone
            _say(line, "failed", when, _portable(error))
            line.recv_bytes()
        sys.exit(1)
    distributed.destroy_process_group()


def _join(device: str, number: int) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are on this host
    if device == "cuda":
        torch.cuda.set_device(number)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")


def _portable(error: BaseException) -> BaseException:
    """An exception that can be sent: a RuntimeError in its place where it cannot."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        plain = RuntimeError(f"{type(error).__name__}: {error}")
        plain.__notes__ = error.__notes__
        return plain
    return error


def _say(line: Connection, *values: object) -> None:
    line.send_bytes(pickle.dumps(values))  # plain: `send` would share the memory of tensors, which ends with a rank


def _heard(line: Connection) -> Any:
    return pickle.loads(line.recv_bytes())
