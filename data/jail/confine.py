"""Limits and identity of a child, for good: what it can never again do, wherever it runs."""

from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path

from data.jail import kernel
from data.jail.calls import call_filter

FIRST_UID = 2_000_000_000  # + process id: a user of its own for every program that root starts


def own_user() -> int | None:
    """The user that root changes to in this process; None where it stays as it is.

    Where users are mapped (a user namespace) and that one is not, root is an ordinary user outside, and the limits
    bind it.
    """
    return FIRST_UID + os.getpid() if os.getuid() == 0 else None


def confine(cpu_s: int, memory: int, file_bytes: int, *, in_room: bool, processes: bool = False) -> None:
    """Confine the calling process. Raises OSError where it would stay free.

    No processes or threads beside itself unless it is a compiler (`processes`), files up to `file_bytes`, no core
    dump, no capability and no way back to one, no system call that `data.jail.calls` denies. Outside of a room a
    program changes no file, and the filter of calls is left out where the kernel has none.
    """
    os.setsid()
    _change_user()
    limits = [
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_FSIZE, file_bytes, file_bytes),
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_CORE, 1, 1),  # 0 would let a core pattern start a program outside
    ]
    if not processes:
        limits.append((resource.RLIMIT_NPROC, 0, 0))
    for what, soft, hard in limits:
        ceiling = resource.getrlimit(what)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(what, (soft, hard))
    kernel.prctl(kernel.NO_NEW_PRIVS, 1)
    kernel.prctl(kernel.DUMPABLE, 1)  # a changed user loses it, and with it /dev/stdin
    kernel.prctl(kernel.PDEATHSIG, signal.SIGKILL)  # after the change of user, which clears it
    kernel.keep_capabilities(frozenset())
    try:
        kernel.seccomp(call_filter(os.getpid(), writes=in_room or processes))
    except OSError:
        if in_room:
            raise


def _change_user() -> None:
    user = own_user()
    if user is None:
        return
    try:
        if Path("/proc/self/setgroups").read_text() != "deny\n":  # a user namespace that one user has made
            os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    except OSError as problem:
        if problem.errno != errno.EINVAL:
            raise


def confinement_fails(in_room: bool) -> str:
    """Why a confined process would stay free, tried once before the first program; empty where it is confined."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, _try_to_fork(in_room).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    said = os.read(reader, 1000).decode()
    os.close(reader)
    return "" if said == "bound" else said or "the trial died"


def _try_to_fork(in_room: bool) -> str:
    try:
        confine(cpu_s=5, memory=1 << 30, file_bytes=0, in_room=in_room)
    except OSError as problem:
        return str(problem)
    try:
        grandchild = os.fork()
    except OSError:
        return "bound"
    if grandchild == 0:
        os._exit(0)
    return "a limit on processes does not bind"
