"""In the child: becoming the program."""

from __future__ import annotations

import atexit
import fcntl
import os
import resource
import sys
import traceback

# What contest programs import most; loaded once in the jail, inherited by every child.
import bisect, collections, functools, heapq, itertools, math, re, string  # noqa: E401, F401  # isort: skip


def write_all(fd: int, content: bytes) -> None:
    """Write everything to a blocking descriptor."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def redirect(stdin: bytes, out: int, err: int) -> None:
    """Make these the standard streams; the input is a file in memory that cannot be changed."""
    source = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    write_all(source, stdin)
    os.lseek(source, 0, os.SEEK_SET)
    fcntl.fcntl(source, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    for fd, standard in ((source, 0), (out, 1), (err, 2)):
        os.dup2(fd, standard)
        os.close(fd)


def execute_binary(binary: int) -> None:
    """Become a compiled program; its stack may take all of its memory, as judges of contests have it."""
    memory = resource.getrlimit(resource.RLIMIT_AS)[0]
    ceiling = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = memory if ceiling == resource.RLIM_INFINITY else min(memory, ceiling)
    resource.setrlimit(resource.RLIMIT_STACK, (stack, stack))
    os.execve(binary, ["main"], {})


def execute_python(source: bytes) -> int:
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
