"""Running a program that nobody trusts: through standard input and output, under limits, one process a test.

A `Jail` is a small Python process of its own session (`data/jail.py`) which forks a child for each test: a
clean interpreter without site packages, environment, privileges, children, threads, or file contents, and
with limits on time, memory and output. The expected output stays here and is compared in full, so an object
that equals everything, a printed prefix or an early exit gains nothing.

What "rlimit" does not hide: a program can read files that its user may read and open sockets. As root each
program gets a user of its own; otherwise it runs as the caller. "namespace" adds process, network, IPC and
host-name namespaces through `unshare(1)`. Not done here, unlike DeepSeek-R1's evaluation of 17K contest
problems: compiled languages, and checkers that accept several outputs.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Literal

from data.jail import EXITED, NOT_CONFINED, OUTPUT_FULL, REPLY, REQUEST, STDERR_BYTES, TIMED_OUT

Isolation = Literal["rlimit", "namespace"]
OutcomeStatus = Literal["passed", "wrong_output", "error", "timeout", "limit"]
_GRACE_S = 5.0  # beyond a program's wall limit, before the jail itself counts as stuck
_START_S = 30.0


class SandboxError(RuntimeError):
    """The sandbox itself failed: no judgement on the program."""


@dataclass(frozen=True, slots=True)
class Test:
    """One hidden test: what the program reads, and what it has to print."""

    __test__ = False  # not a pytest class

    input: str
    output: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use. `cpu_s` are whole processor seconds; `wall_s` ends sleepers and busy machines."""

    cpu_s: int = 5
    wall_s: float = 10.0
    memory_mb: int = 256
    output_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ValueError(f"limit {name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one test ended; `detail` names the error, signal or first difference, never the expected output."""

    status: OutcomeStatus
    detail: str = ""


class Jail:
    """A running jail process; one thread uses it at a time. Leaving the context kills it and its child."""

    def __init__(self, limits: Limits, isolation: Isolation = "rlimit") -> None:
        self._limits = limits
        self._command = (*_prefix(isolation), *_interpreter())
        self._process: subprocess.Popen[bytes] | None = None
        self._home: str | None = None  # working folder, readable by the program's user, writable by none
        self._warm = False  # has answered once

    def __enter__(self) -> Jail:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def test(self, program: str, test: Test) -> Outcome:
        """Run a Python program on one test. Raises SandboxError when the jail cannot do it.

        Where the jail dies, the program gets a second one. If that dies too and still runs an empty program,
        then this program ends its jails (as the same user it can), and has failed.
        """
        request = self._request(program, test.input)
        try:
            reply = self._ask(request)
        except SandboxError:
            try:
                reply = self._ask(request)
            except SandboxError:
                self._ask(self._request("", ""))
                return Outcome("error", "ends its sandbox")
        return _outcome(*reply, test.output)

    def _request(self, program: str, stdin_text: str) -> bytes:
        limits = self._limits
        code = program.encode("utf-8", "surrogatepass")
        stdin = stdin_text.encode("utf-8", "surrogatepass")
        header = REQUEST.pack(
            limits.wall_s,
            limits.cpu_s,
            limits.memory_mb << 20,
            limits.output_bytes,
            len(code),
            len(stdin),
        )
        return header + code + stdin

    def close(self) -> None:
        """Kill the jail's session, and its child with it, and remove the working folder."""
        process, self._process = self._process, None
        home, self._home = self._home, None
        if home is not None:
            os.rmdir(home)
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _ask(self, request: bytes) -> tuple[int, int, bytes, bytes]:
        process = self._start()
        assert process.stdin is not None
        deadline = time.monotonic() + self._limits.wall_s + (_GRACE_S if self._warm else _START_S)
        try:
            process.stdin.write(request)
            process.stdin.flush()
            how, status, out_size, err_size = REPLY.unpack(self._read(REPLY.size, deadline))
            if how == NOT_CONFINED:
                raise SandboxError("programs cannot be confined here: a limit on processes does not bind")
            if out_size > self._limits.output_bytes or err_size > STDERR_BYTES:
                raise SandboxError(f"the jail replied with {out_size} + {err_size} bytes")
            self._warm = True
            return how, status, self._read(out_size, deadline), self._read(err_size, deadline)
        except (OSError, SandboxError) as problem:
            self.close()
            raise SandboxError(str(problem)) from problem

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._warm = False
            self._home = tempfile.mkdtemp(prefix="jail-")
            os.chmod(self._home, 0o555)
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=self._home,
                env={"PYTHONHASHSEED": "0"},
                start_new_session=True,
            )
        return self._process

    def _read(self, size: int, deadline: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        fd, content = self._process.stdout.fileno(), bytearray()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while len(content) < size:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise SandboxError("the jail does not answer")
            chunk = os.read(fd, size - len(content))
            if not chunk:
                raise SandboxError("the jail has died")
            content += chunk
        return bytes(content)


def run(
    program: str,
    tests: Sequence[Test],
    language: str = "python",
    limits: Limits | None = None,
    isolation: Isolation = "rlimit",
    *,
    stop_at_failure: bool = False,
    jail: Jail | None = None,
) -> list[Outcome]:
    """Run a program on each test, in order; with `stop_at_failure` the list ends at the first failure.

    A given `jail` is used, with its limits, and left open; else one is started for the call (some 15 ms).
    Raises ValueError for a language other than "python", SandboxError when nothing can be said about the
    program.
    """
    if language != "python":
        raise ValueError(f"unknown language {language!r}; allowed: 'python'")
    if jail is None:
        with Jail(limits or Limits(), isolation) as own:
            return run(program, tests, stop_at_failure=stop_at_failure, jail=own)
    outcomes: list[Outcome] = []
    for test in tests:
        outcomes.append(jail.test(program, test))
        if stop_at_failure and outcomes[-1].status != "passed":
            break
    return outcomes


def same_output(actual: str, expected: str) -> bool:
    """Whether two outputs agree in every line; blanks at the ends of lines and at the end are ignored."""
    return _lines(actual) == _lines(expected)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _outcome(how: int, status: int, stdout: bytes, stderr: bytes, expected: str) -> Outcome:
    if how == TIMED_OUT:
        return Outcome("timeout", "wall time")
    if how == OUTPUT_FULL:
        return Outcome("limit", "output")
    assert how == EXITED
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGXCPU:
        return Outcome("timeout", "processor time")
    last = stderr.decode("utf-8", "replace").rstrip().rsplit("\n", 1)[-1][:200]
    if code < 0:
        return Outcome("error", f"signal {-code}")
    if code > 0:
        return Outcome("limit" if last.startswith("MemoryError") else "error", last or f"exit code {code}")
    if same_output(stdout.decode("utf-8", "replace"), expected):
        return Outcome("passed")
    return Outcome("wrong_output", f"{len(stdout)} bytes printed")


def _interpreter() -> tuple[str, ...]:
    """A bare interpreter: no site packages, user folder or script folder on its path, UTF-8 throughout."""
    return (sys.executable, "-P", "-s", "-S", "-X", "utf8", str(Path(__file__).with_name("jail.py")))


def _prefix(isolation: Isolation) -> tuple[str, ...]:
    if isolation == "rlimit":
        return ()
    if isolation == "namespace":
        return _namespace_command()
    raise ValueError(f"unknown isolation {isolation!r}; allowed: 'rlimit', 'namespace'")


@cache
def _namespace_command() -> tuple[str, ...]:
    """`unshare` into namespaces of its own; ValueError where the host does not grant them.

    As root without a user namespace: mapped to itself, root would escape the limit on processes.
    """
    spaces = ("--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
    user = () if os.getuid() == 0 else ("--map-current-user",)
    command = (shutil.which("unshare") or "unshare", *user, *spaces)
    try:
        tried = subprocess.run([*command, "true"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise ValueError(f"isolation 'namespace' needs unshare(1): {problem}") from problem
    if tried.returncode:
        reason = tried.stderr.decode("utf-8", "replace").strip()
        raise ValueError(f"isolation 'namespace' is not granted on this host: {reason}")
    return command
