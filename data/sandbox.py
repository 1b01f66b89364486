"""Running a program that nobody trusts: through standard input and output, under limits, one process a test.

A `Jail` is a small process of its own (`data.jail`) whose children run one test each: a clean Python without
site packages, or a C++ program compiled in there, without environment, privileges, children, threads or sockets,
and with limits on time, memory, files and output. The expected output stays here and is compared in full, so an
object that equals everything, a printed prefix or an early exit gains nothing.

The isolation is the strongest that the host grants (`choose`). "bubblewrap" and "unshare" are one room made in two
ways: namespaces for processes, network, IPC, mounts and users, the system's libraries read-only, and a private
folder `/tmp` that is new for each program; no project, no home, no tests. "rlimit", the weaker one, has the limits
and the filter of system calls alone: a program can read what its user may read, and changes no file. As root each
program has a user of its own; otherwise it runs as the caller.

Not done here, unlike DeepSeek-R1's evaluation of 17K contest problems: checkers that accept several outputs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, get_args

from data import jail as protocol
from data.jail.room import DEVICES, PLACE, STREAMS
from data.pipes import read_by

Isolation = Literal["bubblewrap", "unshare", "rlimit", "none"]
"""How programs are shut in; with "none" they are not run at all."""

CodeLanguage = Literal["python", "cpp"]
OutcomeStatus = Literal["passed", "wrong_output", "error", "timeout", "limit"]
FLOAT_TOLERANCE: Final = 1e-6  # absolute, and relative above 1
_GRACE_S = 5.0  # beyond a program's wall limit, before the jail itself counts as stuck
_START_S = 30.0
_END_S = 2.0


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
    """What one run may use. `cpu_s` are whole processor seconds; `wall_s` ends sleepers and busy machines.

    `compile_cpu_s` is for each step of the compilation of a C++ program, and three times that for all of it.
    """

    cpu_s: int = 5
    wall_s: float = 10.0
    compile_cpu_s: int = 10
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
    """A running jail; one thread uses it at a time. Leaving the context ends all of its processes."""

    def __init__(self, limits: Limits, isolation: Isolation) -> None:
        if isolation not in get_args(Isolation):
            raise ValueError(f"unknown isolation {isolation!r}; allowed: {', '.join(get_args(Isolation))}")
        self._limits = limits
        self._isolation = isolation
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = -1  # a file in memory: what the jail complains of itself
        self._warm = False  # has answered once
        self._compiled: tuple[str, bytes | Outcome] | None = (
            None  # the last C++ program: its binary, or why there is none
        )

    def __enter__(self) -> Jail:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def test(self, program: str, test: Test, language: CodeLanguage = "python") -> Outcome:
        """Run a program on one test. Raises SandboxError when the jail cannot do it, ValueError without isolation.

        Where the jail dies, the program gets a second one. If that dies too and still runs an empty program,
        then this program ends its jails (as the same user it can), and has failed.
        """
        compiled = self._binary(program) if language == "cpp" else None
        if isinstance(compiled, Outcome):
            return compiled
        what, code = (protocol.PYTHON, _bytes(program)) if compiled is None else (protocol.BINARY, compiled)
        reply = self._answered(self._request(what, code, _bytes(test.input)))
        return _outcome(*reply, test.output) if reply else Outcome("error", "ends its sandbox")

    def _binary(self, program: str) -> bytes | Outcome:
        """What a C++ program was compiled to, once for its tests, or why it is none."""
        if self._compiled is None or self._compiled[0] != program:
            reply = self._answered(_compile(_bytes(program), self._limits.compile_cpu_s))
            if reply is None:
                found: bytes | Outcome = Outcome("error", "ends its sandbox")
            else:
                found = reply[2] if reply[0] == protocol.EXITED else _outcome(*reply, "")
            self._compiled = program, found
        return self._compiled[1]

    def _answered(self, request: bytes) -> tuple[int, int, bytes, bytes] | None:
        """A reply; None where the request ends its jail, and a second one, which an empty program does not."""
        try:
            return self._ask(request)
        except SandboxError:
            try:
                return self._ask(request)
            except SandboxError:
                self._ask(self._request(protocol.PYTHON, b"", b""))
                return None

    def _request(self, what: int, code: bytes, stdin: bytes) -> bytes:
        limits = self._limits
        header = protocol.REQUEST.pack(
            what, limits.wall_s, limits.cpu_s, limits.memory_mb << 20, limits.output_bytes, len(code), len(stdin)
        )
        return header + code + stdin

    def close(self) -> None:
        """End the jail, which ends its child and all of its room first."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(self._errors)

    def _ask(self, request: bytes) -> tuple[int, int, bytes, bytes]:
        process = self._start()
        assert process.stdin is not None
        _, wall_s, _, _, most, _, _ = protocol.REQUEST.unpack_from(request)
        deadline = time.monotonic() + wall_s + (_GRACE_S if self._warm else _START_S)
        try:
            process.stdin.write(request)
            process.stdin.flush()
            how, status, out_size, err_size = protocol.REPLY.unpack(self._read(protocol.REPLY.size, deadline))
            if out_size > most or err_size > protocol.STDERR_BYTES:
                raise SandboxError(f"the jail replied with {out_size} + {err_size} bytes")
            self._warm = True
            return how, status, self._read(out_size, deadline), self._read(err_size, deadline)
        except (OSError, SandboxError) as problem:
            said = self._complaint()
            self.close()
            raise SandboxError(f"{problem}: {said}" if said else str(problem)) from problem

    def _complaint(self) -> str:
        """The last line that the jail wrote about itself."""
        end = os.fstat(self._errors).st_size
        said = os.pread(self._errors, 1000, max(0, end - 1000)).decode("utf-8", "replace")
        return said.strip().rsplit("\n", 1)[-1]

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._warm = False
            command = _command(self._isolation)
            self._errors = os.memfd_create("errors")
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    cwd="/",
                    env={"PYTHONHASHSEED": "0"},
                    start_new_session=True,
                )
            except OSError as problem:
                os.close(self._errors)
                raise SandboxError(f"{command[0]} does not start: {problem.strerror}") from problem
        return self._process

    def _read(self, size: int, deadline: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        fd, content = self._process.stdout.fileno(), bytearray()
        while len(content) < size:
            chunk = read_by(deadline, fd, size - len(content))
            if not chunk:
                raise SandboxError("the jail does not answer" if chunk is None else "the jail has died")
            content += chunk
        return bytes(content)


@cache
def refusal(isolation: Isolation) -> str:
    """Why the host does not grant an isolation; empty where it does. Tried once a process, by an empty program."""
    try:
        with Jail(Limits(), isolation) as jail:
            jail.test("", Test("", ""))
    except (SandboxError, ValueError) as why:
        return str(why)
    return ""


def choose(allow_rlimit: bool) -> Isolation:
    """The strongest isolation that the host grants; without any, "rlimit" where that is allowed, else "none"."""
    for isolation in _ROOMS:
        if not refusal(isolation):
            return isolation
    return "rlimit" if allow_rlimit else "none"


def run(
    program: str,
    tests: Sequence[Test],
    language: CodeLanguage = "python",
    limits: Limits | None = None,
    isolation: Isolation | None = None,
    *,
    stop_at_failure: bool = False,
    jail: Jail | None = None,
) -> list[Outcome]:
    """Run a program on each test, in order; with `stop_at_failure` the list ends at the first failure.

    A given `jail` is used, with its limits, and left open; else one is started for the call (some 25 ms), in the
    strongest isolation that the host has. A C++ program is compiled once, in its jail; one that does not compile
    fails every test. Raises ValueError for an unknown language and where nothing may be run, SandboxError when
    nothing can be said about the program.
    """
    if language not in get_args(CodeLanguage):
        raise ValueError(f"unknown language {language!r}; allowed: {', '.join(get_args(CodeLanguage))}")
    if jail is None:
        with Jail(limits or Limits(), isolation or choose(allow_rlimit=True)) as own:
            return run(program, tests, language, stop_at_failure=stop_at_failure, jail=own)
    outcomes: list[Outcome] = []
    for test in tests:
        outcomes.append(jail.test(program, test, language))
        if stop_at_failure and outcomes[-1].status != "passed":
            break
    return outcomes


_DECIMAL = re.compile(r"[+-]?(?=[0-9.]*[.eE])(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_MAX_NUMBER = 40  # characters


def same_output(actual: str, expected: str) -> bool:
    """Whether two outputs agree in full, line by line.

    Blanks at the ends of lines and blank lines at the end are ignored, all other white space counts. A word is
    compared as text, unless the expected one is a number with a point or an exponent: then any number within
    `FLOAT_TOLERANCE` of it, absolute or relative, is the same. Where an integer is expected, "3.0" is not "3".
    """
    ours, theirs = _lines(actual), _lines(expected)
    return ours == theirs or (
        len(ours) == len(theirs) and all(a == b or _same_words(a, b) for a, b in zip(ours, theirs, strict=True))
    )


def _same_words(actual: str, expected: str) -> bool:
    ours, theirs = (re.split(r"(\s+)", line) for line in (actual, expected))
    return len(ours) == len(theirs) and all(a == b or _close(a, b) for a, b in zip(ours, theirs, strict=True))


def _close(actual: str, expected: str) -> bool:
    if max(len(actual), len(expected)) > _MAX_NUMBER:
        return False
    if not (_DECIMAL.fullmatch(expected) and _NUMBER.fullmatch(actual)):
        return False
    a, b = float(actual), float(expected)
    return abs(a - b) <= FLOAT_TOLERANCE * max(1.0, abs(b))


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _compile(source: bytes, cpu_s: int) -> bytes:
    """The request to compile a source."""
    limits = (3.0 * cpu_s, cpu_s, protocol.COMPILE_MEMORY, protocol.BINARY_BYTES)
    return protocol.REQUEST.pack(protocol.COMPILE, *limits, len(source), 0) + source


def _outcome(how: int, status: int, stdout: bytes, stderr: bytes, expected: str) -> Outcome:
    if how == protocol.TIMED_OUT:
        return Outcome("timeout", "wall time")
    if how == protocol.OUTPUT_FULL:
        return Outcome("limit", "output")
    said = stderr.decode("utf-8", "replace").rstrip()
    if how == protocol.NOT_CONFINED:
        raise SandboxError(f"programs cannot be confined here: {said}")
    if how == protocol.NO_COMPILER:
        raise SandboxError("no C++ compiler on this host: install g++ (apt-get install g++)")
    if how == protocol.NOT_COMPILED:
        return Outcome("error", f"does not compile: {_first_error(said)}")
    assert how == protocol.EXITED
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGXCPU:
        return Outcome("timeout", "processor time")
    last = said.rsplit("\n", 1)[-1][:200]
    if code < 0:
        return Outcome("error", f"signal {-code}")
    if code > 0:
        return Outcome("limit" if last.startswith("MemoryError") else "error", last or f"exit code {code}")
    if same_output(stdout.decode("utf-8", "replace"), expected):
        return Outcome("passed")
    return Outcome("wrong_output", f"{len(stdout)} bytes printed")


def _first_error(said: str) -> str:
    """What a compiler complains of first."""
    lines = said.split("\n")
    return next((line for line in lines if "error" in line), lines[-1] or "no reason given, or over its limits")[:200]


# How a jail is started.

_ROOMS: Final[tuple[Isolation, ...]] = ("bubblewrap", "unshare")
_LIBRARY = Path(__file__).resolve().parent.parent
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from data.jail.server import main; main(*sys.argv[1:])"
_SYSTEM = (
    "/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec", "/usr/include", "/bin", "/lib", "/lib32",
    "/lib64", "/etc/ld.so.cache", "/etc/alternatives",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class View:
    """What of the host a room shows: paths read-only, symbolic links, and folders within them that are covered."""

    shown: tuple[str, ...]
    links: Mapping[str, str]
    hidden: tuple[str, ...]


@cache
def view() -> View:
    """The system's libraries, a compiler's, and Python's own, without any package that was installed."""
    there = [path for path in _SYSTEM if os.path.lexists(path)]
    links = {path: os.readlink(path) for path in there if os.path.islink(path)}
    shown = [path for path in there if path not in links]
    prefix = os.path.realpath(sys.base_prefix)
    for path in (f"{prefix}/lib", f"{prefix}/{sys.platlibdir}", os.path.realpath(sys.executable)):
        if os.path.exists(path) and not any(_within(path, other) for other in shown):
            shown.append(path)
    packages = [str(path) for folder in shown for path in Path(folder).glob("python3*/*-packages")]
    hidden = [path for path in (*packages, str(_LIBRARY)) if any(_within(path, folder) for folder in shown)]
    return View(tuple(shown), links, tuple(path for path in hidden if not os.path.islink(path)))


def _within(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)


def refuse() -> str:
    """What to say where programs cannot be shut in."""
    reasons = "; ".join(f"{room}: {refusal(room)}" for room in _ROOMS)
    return (
        f"programs that nobody trusts cannot be shut in on this host ({reasons}). Install bubblewrap (apt-get install "
        "bubblewrap) or allow user namespaces; `allow_rlimit = true` in the recipe, or --set allow_rlimit=true, runs "
        "them under resource limits alone"
    )


def _command(isolation: Isolation) -> list[str]:
    """The command of a jail. Raises ValueError where nothing may be run."""
    if isolation == "none":
        raise ValueError(refuse())
    if isolation == "bubblewrap":
        return [*_bubblewrap(), *_python(os.path.realpath(sys.executable), "/r1", "made")]
    if isolation == "unshare":
        room = {"shown": view().shown, "links": view().links, "hidden": view().hidden}
        return _python(sys.executable, str(_LIBRARY), json.dumps(room))
    return _python(sys.executable, str(_LIBRARY), "none")


def _python(interpreter: str, library: str, room: str) -> list[str]:
    """A bare interpreter: no site packages, user folder or script folder on its path, UTF-8 throughout."""
    return [interpreter, "-P", "-s", "-S", "-X", "utf8", "-c", _BOOT, library, room]


def _bubblewrap() -> list[str]:
    """`bwrap` with the room of `data.jail.room`, which mounts the private folder itself.

    Raises SandboxError where it is not installed.
    """
    found = view()
    program = shutil.which("bwrap")
    if program is None:
        raise SandboxError("bwrap is not installed")
    command = [program, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    command += ["--unshare-cgroup-try", "--as-pid-1", "--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN"]
    if os.getuid() == 0:
        for name in ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"):
            command += ["--cap-add", f"CAP_{name}"]
    else:
        command += ["--unshare-user"]
    for folder in _folders_to(*found.shown, *found.links, "/dev/null", "/r1/data/jail", "/proc", PLACE):
        command += ["--dir", folder]  # bwrap makes those that are not named for its own user alone
    for path in found.shown:
        command += ["--ro-bind", path, path]
    for path in found.hidden:
        command += ["--tmpfs", path, "--remount-ro", path]
    for path, target in (*found.links.items(), *((f"/dev/{name}", target) for name, target in STREAMS.items())):
        command += ["--symlink", target, path]
    for name in DEVICES:
        command += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    guard = str(Path(protocol.__file__).parent)
    command += ["--ro-bind", str(_LIBRARY / "data" / "__init__.py"), "/r1/data/__init__.py"]
    command += ["--ro-bind", guard, "/r1/data/jail", "--proc", "/proc", "--dir", PLACE, "--remount-ro", "/"]
    return [*command, "--chdir", "/", "--"]


def _folders_to(*paths: str) -> list[str]:
    """The folders above some paths, outermost first."""
    folders = {str(folder) for path in paths for folder in Path(path).parents}
    return sorted(folders - {"/"})
