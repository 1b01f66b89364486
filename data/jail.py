"""The process inside which untrusted programs run: a script for `data.sandbox`, standard library only.

It reads requests from standard input and forks one child for each: the child takes its limits, gives up its
user, and executes the program over its own pipes. Expected outputs never come here, so nothing in this
process is worth stealing. When the parent dies, standard input ends; this process ends with it, and its child
through `PR_SET_PDEATHSIG`.

Request: `REQUEST` header, program, standard input. Reply: `REPLY` header, standard output, standard error.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import os
import resource
import select
import signal
import struct
import sys
import time
import traceback

# What contest programs import most; loaded once here, inherited by every child.
import bisect, collections, functools, heapq, itertools, math, re, string  # noqa: E401, F401  # isort: skip

REQUEST = struct.Struct("<dIQQII")  # wall s, CPU s, memory bytes, output bytes, len(program), len(input)
REPLY = struct.Struct("<BiII")  # how it ended, wait status, len(stdout), len(stderr)
EXITED, TIMED_OUT, OUTPUT_FULL, NOT_CONFINED = range(4)
STDERR_BYTES = 4096
FIRST_UID = 2_000_000_000  # + process id: a user of its own for every program
_PDEATHSIG, _DUMPABLE, _NO_NEW_PRIVS = 1, 4, 38  # prctl(2)


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


def write_all(fd: int, content: bytes) -> None:
    """Write everything to a blocking descriptor."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def confine(cpu_s: int, memory: int) -> None:
    """Limits and identity of the calling process, for good. Raises OSError where it would stay free.

    No processes or threads beside itself, no file contents (pipes are no files), no core, no way back to
    privileges. Root becomes a user that owns nothing; where that user is not mapped (a user namespace), root
    is an ordinary user outside, and the limits bind it.
    """
    libc = ctypes.CDLL(None)
    os.setsid()
    if os.getuid() == 0:
        uid = FIRST_UID + os.getpid()
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        except OSError as problem:
            if problem.errno != errno.EINVAL:
                raise
    for what, soft, hard in (
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_NPROC, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        resource.setrlimit(what, (soft, hard))
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_DUMPABLE, 1, 0, 0, 0)  # a changed user loses it, and with it /dev/stdin
    libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # after the change of user, which clears it


def confinement_holds() -> bool:
    """Whether a confined process is really unable to fork; tried once before the first program."""
    child = os.fork()
    if child == 0:
        try:
            confine(cpu_s=5, memory=1 << 30)
        except OSError:
            os._exit(1)
        try:
            grandchild = os.fork()
        except OSError:
            os._exit(0)
        os._exit(0 if grandchild == 0 else 1)
    return os.waitpid(child, 0)[1] == 0


def collect(child: int, out: int, err: int, deadline: float, limit: int) -> tuple[int, int, bytes, bytes]:
    """Read what a child writes until it ends, runs out of time, or exceeds `limit` bytes; then it is dead."""
    texts: dict[int, bytearray] = {out: bytearray(), err: bytearray()}
    poll = select.poll()
    poll.register(0, 0)  # only the hang-up of the parent
    poll.register(out, select.POLLIN)
    poll.register(err, select.POLLIN)
    open_fds, how = {out, err}, EXITED
    while open_fds and how == EXITED:
        remaining = deadline - time.monotonic()
        for fd, _ in poll.poll(max(0, remaining) * 1000):
            if fd == 0:
                os.kill(child, signal.SIGKILL)
                os._exit(0)
            chunk = os.read(fd, 1 << 16)
            if not chunk:
                open_fds.discard(fd)
                poll.unregister(fd)
            texts[fd] += chunk
        del texts[err][:-STDERR_BYTES]
        if len(texts[out]) > limit:
            how = OUTPUT_FULL
        elif remaining <= 0:
            how = TIMED_OUT
    if how == EXITED and not wait_until(child, deadline):
        how = TIMED_OUT
    if how != EXITED:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return how, status, bytes(texts[out][:limit]), bytes(texts[err])


def wait_until(child: int, deadline: float) -> bool:
    """Whether a child that has closed its pipes also ends in time; it is left to be reaped."""
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.0005)
    return True


def become_program(program: bytes, stdin: bytes, out: int, err: int, cpu_s: int, memory: int) -> None:
    """In the child: standard streams, limits, and the program as the only `__main__`."""
    source = os.memfd_create("stdin")
    write_all(source, stdin)
    os.lseek(source, 0, os.SEEK_SET)
    for fd, standard in ((source, 0), (out, 1), (err, 2)):
        os.dup2(fd, standard)
        os.close(fd)
    try:
        confine(cpu_s, memory)
    except OSError as problem:
        write_all(2, str(problem).encode())
        os._exit(NOT_CONFINED)


def run_one(wall_s: float, cpu_s: int, memory: int, limit: int, program: bytes, stdin: bytes) -> bytes | None:
    """The reply for one program; None in the child, which is then to execute it."""
    out, child_out = os.pipe()
    err, child_err = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        os.close(err)
        become_program(program, stdin, child_out, child_err, cpu_s, memory)
        return None
    os.close(child_out)
    os.close(child_err)
    how, status, stdout, stderr = collect(child, out, err, time.monotonic() + wall_s, limit)
    os.close(out)
    os.close(err)
    return REPLY.pack(how, status, len(stdout), len(stderr)) + stdout + stderr


def serve() -> bytes:
    """Answer requests until the parent closes the pipe. Returns only in a child, with its program."""
    if not confinement_holds():
        write_all(1, REPLY.pack(NOT_CONFINED, 0, 0, 0))
        sys.exit(NOT_CONFINED)
    while (header := read_exactly(0, REQUEST.size)) is not None:
        wall_s, cpu_s, memory, limit, program_size, stdin_size = REQUEST.unpack(header)
        program, stdin = read_exactly(0, program_size), read_exactly(0, stdin_size)
        if program is None or stdin is None:
            break
        reply = run_one(wall_s, cpu_s, memory, limit, program, stdin)
        if reply is None:
            return program
        write_all(1, reply)
    sys.exit(0)


def reach_library() -> None:
    """Hold the standard library open: the program's user may not be allowed to walk to it by its path."""
    for number, path in enumerate(sys.path):
        if not os.path.isdir(path):
            continue
        held = sys.path[number] = f"/proc/self/fd/{os.open(path, os.O_PATH | os.O_DIRECTORY)}"
        for module in list(sys.modules.values()):
            parts = getattr(module, "__path__", None)
            if isinstance(parts, list):
                parts[:] = [held + part.removeprefix(path) if part.startswith(path) else part for part in parts]
    sys.path_importer_cache.clear()


def execute(source: bytes) -> int:
    """Run a program as the only `__main__`; its exit status. The interpreter's own teardown is left out: it
    touches every page that the fork shares, which costs more than all the rest."""
    main = sys.modules["__main__"] = type(sys)("__main__")
    try:
        try:
            exec(compile(source, "main.py", "exec"), main.__dict__)
            status = 0
        except SystemExit as end:
            status = exit_status(end.code)
        atexit._run_exitfuncs()
        main.__dict__.clear()  # what the program left open is flushed as it goes
        for stream in (sys.stdout, sys.__stdout__):
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
    except BaseException:
        traceback.print_exc()
        status = 1
    return status


def exit_status(code: object) -> int:
    """What `sys.exit(code)` leaves to the parent."""
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    print(code, file=sys.stderr)
    return 1


if __name__ == "__main__":
    reach_library()
    os.environ.clear()
    sys.dont_write_bytecode = True
    program = serve()
    jail = sys.modules["__main__"]  # alive while its functions run
    sys.argv[:] = ["main.py"]
    os._exit(execute(program))
