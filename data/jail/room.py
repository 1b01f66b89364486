"""A room: a root of its own with read-only system files, no network, and no process beside those in it.

`enter` makes one as bubblewrap does, by unshare(2) and pivot_root(2); where bubblewrap makes it, only the private
folder is left to `furnish`. In both, this process is the first of its process namespace: nothing inside can signal
it, and what it leaves running ends with it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence

from data.jail import PLACE_BYTES, kernel

PLACE = "/tmp"  # in a room the private folder of a program
DEVICES = ("null", "zero", "full", "random", "urandom")
STREAMS = {"stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "fd": "/proc/self/fd"}
_OLD = "/.old"
_CHOWN, _DAC_OVERRIDE, _FOWNER, _KILL, _SETGID, _SETUID, _SYS_ADMIN = 0, 1, 3, 5, 6, 7, 21
CAPABILITIES = frozenset({_CHOWN, _DAC_OVERRIDE, _FOWNER, _KILL, _SETGID, _SETUID, _SYS_ADMIN})
"""What root keeps in a room, to give each program a user and a folder of its own; others need only the last."""


def enter(shown: Sequence[str], links: Mapping[str, str], hidden: Sequence[str]) -> None:
    """Leave for a room that shows some paths of the host, holds symbolic links, and covers hidden folders.

    Returns in a new process; the calling one waits for it, and ends as it ends.
    """
    user, group = os.getuid(), os.getgid()
    kinds = [kind for kind in kernel.NEW_NAMESPACES if user or kind != "user"]
    kernel.unshare(sum(kernel.NEW_NAMESPACES[kind] for kind in kinds))
    if user:
        for name, text in (("setgroups", "deny"), ("gid_map", f"{group} {group} 1"), ("uid_map", f"{user} {user} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    if child := os.fork():
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    kernel.prctl(kernel.PDEATHSIG, signal.SIGKILL)
    kernel.mount("none", "/", None, kernel.RECURSIVE | kernel.PRIVATE)
    kernel.mount("tmpfs", PLACE, "tmpfs", kernel.NO_SETUID | kernel.NO_DEVICES, "mode=755,size=1m")
    os.mkdir(PLACE + _OLD)
    kernel.pivot_root(PLACE, PLACE + _OLD)
    os.chdir("/")
    _build(shown, links, hidden)
    kernel.unmount(_OLD)
    os.rmdir(_OLD)
    _lock("/")


def _build(shown: Sequence[str], links: Mapping[str, str], hidden: Sequence[str]) -> None:
    for path in shown:
        _show(path)
    for path, target in {**links, **{f"/dev/{name}": target for name, target in STREAMS.items()}}.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(target, path)
    for path in hidden:
        kernel.mount("tmpfs", path, "tmpfs", kernel.READ_ONLY, "mode=755,size=4k")
    for name in DEVICES:
        _bind(f"/dev/{name}")
    for folder in ("/proc", PLACE):
        os.mkdir(folder)
    kernel.mount("proc", "/proc", "proc", kernel.NO_SETUID | kernel.NO_DEVICES)


def _bind(path: str) -> None:
    source = _OLD + path
    if os.path.isdir(source):
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    kernel.mount(source, path, None, kernel.BIND | kernel.RECURSIVE)


def _show(path: str) -> None:
    _bind(path)
    _lock(path)


def _lock(path: str) -> None:
    """Make a mount read-only; what it forbids already must be said again."""
    kept = kernel.NO_EXECUTION if os.statvfs(path).f_flag & os.ST_NOEXEC else 0
    flags = kernel.REMOUNT | kernel.BIND | kernel.READ_ONLY | kernel.NO_SETUID | kernel.NO_DEVICES | kept
    kernel.mount("none", path, None, flags)


class Place:
    """The private folder: empty for every program, and bounded in bytes and in files."""

    def __init__(self) -> None:
        os.chdir("/")
        self._mount()
        kernel.keep_capabilities(CAPABILITIES if os.getuid() == 0 else frozenset({_SYS_ADMIN}))

    def clear(self) -> None:
        """Give the next program a new folder where anything was done to this one."""
        if self._state() != self._pristine:
            kernel.unmount(PLACE)
            self._mount()

    def _mount(self) -> None:
        options = f"mode=1777,size={PLACE_BYTES},nr_inodes=4096"
        kernel.mount("tmpfs", PLACE, "tmpfs", kernel.NO_SETUID | kernel.NO_DEVICES, options)
        self._pristine = self._state()

    def _state(self) -> tuple[int, ...]:
        found = os.stat(PLACE)
        return found.st_mode, found.st_ctime_ns, found.st_size, found.st_nlink  # the size counts what is in it
