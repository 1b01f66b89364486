"""Requests in, one handler each and its child, replies out. Protocol in `data.jail`; started by `data.sandbox`."""

from __future__ import annotations

import json
import os
import select
import signal
import stat
import sys
import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from data import jail
from data.jail import kernel
from data.jail.confine import confine, confinement_fails, own_user
from data.jail.program import execute_binary, execute_python, reach_library, redirect, write_all
from data.jail.room import PLACE, Place, enter

COMPILER = ("-x", "c++", "-std=gnu++17", "-O2", "-pipe", "-w", "-fmax-errors=1", "-fno-diagnostics-show-caret")

GONE = 1  # the exit status of a handler whose parent is gone


class Request(NamedTuple):
    """One program and what it may use."""

    what: int
    wall_s: float
    cpu_s: int
    memory: int
    output_bytes: int
    program: bytes
    stdin: bytes


class Reply(NamedTuple):
    """How a child ended, and what it wrote."""

    how: int
    status: int
    stdout: bytes = b""
    stderr: bytes = b""

    def packed(self) -> bytes:
        """As it goes to the parent."""
        return jail.REPLY.pack(self.how, self.status, len(self.stdout), len(self.stderr)) + self.stdout + self.stderr


def read_exactly(fd: int, size: int) -> bytes | None:
    """`size` bytes from a blocking descriptor; None when it ends before them."""
    chunks = []
    while size:
        chunk = os.read(fd, min(size, 1 << 20))
        if not chunk:
            return None
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def read_request() -> Request | None:
    """The next request; None when the parent is gone."""
    header = read_exactly(0, jail.REQUEST.size)
    if header is None:
        return None
    what, wall_s, cpu_s, memory, output_bytes, program_size, stdin_size = jail.REQUEST.unpack(header)
    program = read_exactly(0, program_size)
    stdin = read_exactly(0, stdin_size) if program is not None else None
    if program is None or stdin is None:
        return None
    return Request(what, wall_s, cpu_s, memory, output_bytes, program, stdin)


def supervise(
    prepare: Callable[[], None], execute: Callable[[], None], stdin: bytes, wall_s: float, limit: int
) -> Reply:
    """Fork a child that prepares itself and executes something, and read what that writes until it ends.

    Where it cannot prepare itself, nothing is executed, and the reply says why.
    """
    deadline = time.monotonic() + wall_s
    out, child_out = os.pipe()
    err, child_err = os.pipe()
    why, child_why = os.pipe()
    child = os.fork()
    if child == 0:
        for fd in (out, err, why):
            os.close(fd)
        run_child(prepare, execute, (stdin, child_out, child_err), child_why)
    for fd in (child_out, child_err, child_why):
        os.close(fd)
    try:
        unprepared = os.read(why, 1000)
        reply = collect(child, out, err, deadline, limit)
        return Reply(jail.NOT_CONFINED, 0, b"", unprepared) if unprepared else reply
    finally:
        for fd in (out, err, why):
            os.close(fd)


def run_child(
    prepare: Callable[[], None], execute: Callable[[], None], streams: tuple[bytes, int, int], why: int
) -> NoReturn:
    """Prepare, execute, and never return."""
    try:
        redirect(*streams)
        prepare()
    except OSError as problem:
        os.write(why, str(problem).encode())
        os._exit(1)
    os.close(why)
    try:
        execute()
    except OSError as problem:  # a binary that cannot be executed
        write_all(2, str(problem).encode())
    os._exit(1)


def collect(child: int, out: int, err: int, deadline: float, limit: int) -> Reply:
    """Read what a child writes until it ends, runs out of time, or exceeds `limit` bytes; then all of it is dead."""
    texts: dict[int, bytearray] = {out: bytearray(), err: bytearray()}
    poll = select.poll()
    poll.register(0, 0)  # only the hang-up of the parent
    poll.register(out, select.POLLIN)
    poll.register(err, select.POLLIN)
    open_fds, how = {out, err}, jail.EXITED
    while open_fds and how == jail.EXITED:
        remaining = deadline - time.monotonic()
        for fd, _ in poll.poll(max(0, remaining) * 1000):
            if fd == 0:
                end(child)
                os._exit(GONE)
            chunk = os.read(fd, 1 << 16)
            if not chunk:
                open_fds.discard(fd)
                poll.unregister(fd)
            texts[fd] += chunk
        del texts[err][: -jail.STDERR_BYTES]
        if len(texts[out]) > limit:
            how = jail.OUTPUT_FULL
        elif remaining <= 0:
            how = jail.TIMED_OUT
    if how == jail.EXITED and not wait_until(child, deadline):
        how = jail.TIMED_OUT
    end(child)
    status = os.waitpid(child, 0)[1]
    return Reply(how, status, bytes(texts[out][:limit]), bytes(texts[err]))


def wait_until(child: int, deadline: float) -> bool:
    """Whether a child that has closed its pipes also ends in time; it is left to be reaped."""
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.0005)
    return True


def end(child: int) -> None:
    """Kill a child with its process group. A dead child is not reaped yet."""
    try:
        os.kill(child, signal.SIGKILL)
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass


def end_room() -> None:
    """Kill all that a handler has left in a room, of which this is the first process, and see it dead."""
    try:
        os.kill(-1, signal.SIGKILL)
        while True:
            os.waitpid(-1, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def answer(request: Request, in_room: bool) -> Reply:
    """Do what is asked once. Outside of a room a program may write no file."""
    if request.what == jail.COMPILE:
        return compiled(request, in_room)
    binary = in_memory(request.program) if request.what == jail.BINARY else -1

    def prepare() -> None:
        os.chdir(PLACE if in_room else "/")
        confine(request.cpu_s, request.memory, jail.PLACE_BYTES if in_room else 0, in_room=in_room)

    def execute() -> None:
        if request.what == jail.BINARY:
            execute_binary(binary)
        os._exit(execute_python(request.program))

    return supervise(prepare, execute, request.stdin, request.wall_s, request.output_bytes)


def compiled(request: Request, in_room: bool) -> Reply:
    """The binary of a source, or what the compiler says. The compiler is confined like a program."""
    compiler = next((path for path in jail.COMPILERS if os.path.exists(path)), None)
    if compiler is None:
        return Reply(jail.NO_COMPILER, 0)
    folder = f"{PLACE}/build-{os.urandom(8).hex()}"
    os.mkdir(folder, 0o700)

    def prepare() -> None:
        """Give the folder to the compiler's own user, and confine it to that."""
        os.chdir(folder)
        user = own_user()
        if user is not None:
            os.chown(".", user, user)
        confine(request.cpu_s, request.memory, jail.PLACE_BYTES, in_room=in_room, processes=True)

    def execute() -> None:
        os.execve(compiler, [compiler, *COMPILER, "-o", "main", "-"], {"PATH": "/usr/bin:/bin", "TMPDIR": "."})

    try:
        reply = supervise(prepare, execute, request.program, request.wall_s, 1)
        if reply.how == jail.NOT_CONFINED:
            return reply
        made = (
            content_of(f"{folder}/main", request.output_bytes) if reply.how == jail.EXITED and not reply.status else b""
        )
        return Reply(jail.EXITED, 0, made) if made else Reply(jail.NOT_COMPILED, 0, b"", reply.stderr)
    finally:
        for name in os.listdir(folder):
            os.unlink(f"{folder}/{name}")
        os.rmdir(folder)


def content_of(path: str, limit: int) -> bytes:
    """A file's content; empty where it is none, or longer than the limit."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(file)
        fits = stat.S_ISREG(found.st_mode) and found.st_size <= limit
        return (read_exactly(file, found.st_size) or b"") if fits else b""
    finally:
        os.close(file)


def in_memory(content: bytes) -> int:
    """A descriptor of a file in memory, which can be executed."""
    binary = os.memfd_create("main")
    write_all(binary, content)
    return binary


def handle_one(in_room: bool) -> NoReturn:
    """Answer one request, and end; `GONE` where the parent is."""
    kernel.prctl(kernel.PDEATHSIG, signal.SIGKILL)
    request = read_request()
    if request is None:
        os._exit(GONE)
    write_all(1, answer(request, in_room).packed())
    os._exit(0)


def serve(place: Place | None) -> None:
    """Fork a handler for each request until the parent is gone or a handler fails; this process reads none.

    What a handler leaves behind is ended and cleared away before the next one is forked.
    """
    while True:
        handler = os.fork()
        if handler == 0:
            handle_one(in_room=place is not None)
        status = os.waitpid(handler, 0)[1]
        if place:
            end_room()
            place.clear()
        if status != 0:
            return


def main(library: str, room: str) -> None:
    """Serve until the parent closes the pipe. `library` is where this package lies, to be forgotten at once.

    `room` is "none", "made", or as JSON the arguments of `data.jail.room.enter`.
    """
    sys.path.remove(library)
    for name in [name for name in sys.modules if name == "data" or name.startswith("data.")]:
        del sys.modules[name]
    os.environ.clear()
    sys.dont_write_bytecode = True
    try:
        if room not in ("none", "made"):
            enter(**json.loads(room))
        place = Place() if room != "none" else None
        kernel.prctl(kernel.DUMPABLE, 0)  # no child can look into this process
        why = confinement_fails(in_room=place is not None)
    except OSError as problem:
        why = str(problem)
    if why:
        sys.exit(why)
    if place is None:
        reach_library()
    sys.argv[:] = ["main.py"]
    serve(place)
    os._exit(0)
