"""Whether two mathematical expressions are equal, by math-verify (sympy) in processes that can be killed.

A hostile expression can keep sympy busy for minutes inside one call that no Python signal handler interrupts.
So the work is done by workers: this file run as a script, which answers one question at a time, is killed at
its deadline, and sets itself a kernel alarm that ends it even if its parent has died. The deadline starts
when a worker takes the question up: questions that wait behind others lose nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

Equality = Literal["equal", "different", "unparseable", "gold_unparseable", "timeout", "broken"]
MEMORY_BYTES = 2 << 30
_START_S = 60.0  # the import of sympy on a busy machine
_GRACE_S = 1.0  # the worker's own alarm comes this much after its deadline


class Worker:
    """One process with sympy loaded. `ask` is called by one thread at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-P", str(Path(__file__))),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.alive = self._line(_START_S) == b"ready\n"

    def ask(self, gold: str, answer: str, timeout_s: float) -> Equality:
        """Compare within `timeout_s` seconds from now; the worker is dead after "timeout" and "broken"."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([gold, answer, timeout_s]).encode() + b"\n")
            self._process.stdin.flush()
            line = self._line(timeout_s)
        except OSError:
            line = b""
        if line is None or not line.endswith(b"\n"):
            self.kill()
            return "timeout" if line is None else "broken"
        found: Equality = json.loads(line)
        return found

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
        """One line; None when it does not come in time, without its end when the process dies."""
        assert self._process.stdout is not None
        fd, line, deadline = self._process.stdout.fileno(), b"", time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while not line.endswith(b"\n"):
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return None
            chunk = os.read(fd, 4096)
            if not chunk:
                break
            line += chunk
        return line


_idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()


def compare(gold: str, answer: str, timeout_s: float) -> Equality:
    """Compare two LaTeX expressions by an idle worker, or a new one where none is idle. Thread-safe."""
    try:
        worker = _idle.get_nowait()
    except queue.Empty:
        worker = Worker()
    if not worker.alive:
        worker.kill()
        return "broken"
    found = worker.ask(gold, answer, timeout_s)
    if worker.alive:
        _idle.put(worker)
    return found


@atexit.register
def stop_idle() -> None:
    """Kill the workers that wait for work."""
    while True:
        try:
            _idle.get_nowait().kill()
        except queue.Empty:
            return


def _equality(gold: str, answer: str) -> Equality:
    from math_verify import LatexExtractionConfig, parse, verify

    latex = [LatexExtractionConfig()]
    sides = [
        parse(rf"\boxed{{{text}}}", latex, fallback_mode="no_fallback", parsing_timeout=None) for text in (gold, answer)
    ]
    if not sides[0]:
        return "gold_unparseable"
    if not sides[1]:
        return "unparseable"
    return "equal" if verify(sides[0], sides[1], timeout_seconds=None) else "different"


def _serve() -> None:
    """Answer questions from standard input until it ends."""
    replies = os.dup(1)
    os.dup2(2, 1)  # whatever the libraries print
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _equality("x", "x")
    os.write(replies, b"ready\n")
    for line in sys.stdin:
        gold, answer, timeout_s = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, timeout_s + _GRACE_S)
        try:
            found = _equality(gold, answer)
        except (Exception, RecursionError, MemoryError):
            found = "unparseable"
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(replies, json.dumps(found).encode() + b"\n")


if __name__ == "__main__":
    _serve()
