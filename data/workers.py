"""Processes that can be killed, for what only math-verify (sympy) or reasoning-gym's scorers can decide.

A hostile expression can keep sympy busy for minutes inside one call that no Python signal handler interrupts.
So the work is done by workers (`data/oracle.py`), each with a child that answers one question at a time and is
killed at its deadline. The deadline starts when a worker takes the question up: questions that wait behind others lose
nothing, and neither does the first one, which waits for its worker to load its libraries.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from data.pipes import read_by

Kind = Literal["math", "reasoning_gym"]
Finding = Literal["equal", "different", "unparseable", "gold_unparseable", "timeout", "deadly", "broken"]
"""`deadly`: the question ends its workers, which answer others; `broken`: no worker answers here at all."""
_START_S = 60.0  # the import of sympy on a busy machine
_EASY: Mapping[Kind, Sequence[Any]] = {
    "math": ("x", "x"),
    "reasoning_gym": ("chain_sum", "1", {"answer": "1", "metadata": {}}),
}
_EASY_S = 30.0


class Worker:
    """One process with its libraries loaded, and the child of it that answers. `ask` is called by one thread."""

    def __init__(self, kind: Kind) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-P", str(Path(__file__).with_name("oracle.py")), kind),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._rest = b""
        self._child = 0
        self.alive = self._ready()

    def ask(self, question: Sequence[Any], timeout_s: float) -> Finding:
        """Answer within `timeout_s` seconds from now; the child is another one after "timeout" and "broken"."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([timeout_s, question]).encode() + b"\n")
            self._process.stdin.flush()
            line = self._line(timeout_s)
        except OSError:
            line = b""
        if line is None:
            os.kill(self._child, signal.SIGKILL)
            self.alive = self._ready()
            return "timeout"
        if not line.startswith(b'"'):  # the child has died: what comes is another one, or nothing
            self.alive = self._is_ready(line)
            return "broken"
        found: Finding = json.loads(line)
        return found

    def _ready(self) -> bool:
        """Wait for a child that can be asked; what a child said that was killed meanwhile is left out."""
        deadline = time.monotonic() + _START_S
        while line := self._line(deadline - time.monotonic()):
            if self._is_ready(line):
                return True
        return False

    def _is_ready(self, line: bytes) -> bool:
        name, _, child = line.partition(b" ")
        self._child = int(child) if name == b"ready" else 0
        return self._child > 0

    def kill(self) -> None:
        """End the process and whatever it started."""
        self.alive = False
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _line(self, timeout_s: float) -> bytes | None:
        """One line; None when it does not come in time, empty when the process has ended."""
        assert self._process.stdout is not None
        fd, deadline = self._process.stdout.fileno(), time.monotonic() + timeout_s
        while b"\n" not in self._rest:
            chunk = read_by(deadline, fd, 4096)
            if not chunk:
                return chunk
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line


_idle: defaultdict[Kind, queue.SimpleQueue[Worker]] = defaultdict(queue.SimpleQueue)


def compare(gold: str, answer: str, timeout_s: float) -> Finding:
    """Whether two LaTeX expressions are equal, by math-verify. Thread-safe."""
    return _decide("math", (gold, answer), timeout_s)


def score(family: str, answer: str, item: Mapping[str, Any], timeout_s: float) -> Finding:
    """Whether the scorer of a reasoning-gym family gives an answer 1; `item` has `answer` and `metadata`."""
    return _decide("reasoning_gym", (family, answer, item), timeout_s)


def _decide(kind: Kind, question: Sequence[Any], timeout_s: float) -> Finding:
    """Ask; where that ends the one asked, ask once more, and where it does again, ask whether others work."""
    for _ in range(2):
        found = _ask(kind, question, timeout_s)
        if found != "broken":
            return found
    return "deadly" if _ask(kind, _EASY[kind], _EASY_S) == "equal" else "broken"


def _ask(kind: Kind, question: Sequence[Any], timeout_s: float) -> Finding:
    """Ask an idle worker, or a new one where none is idle."""
    try:
        worker = _idle[kind].get_nowait()
    except queue.Empty:
        worker = Worker(kind)
    if not worker.alive:
        worker.kill()
        return "broken"
    found = worker.ask(question, timeout_s)
    if worker.alive:
        _idle[kind].put(worker)
    else:
        worker.kill()
    return found


@atexit.register
def stop_idle() -> None:
    """Kill the workers that wait for work."""
    for workers in _idle.values():
        while True:
            try:
                workers.get_nowait().kill()
            except queue.Empty:
                break
