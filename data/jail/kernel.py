"""The few system calls that Python 3.11 has no function for. Each raises OSError."""

from __future__ import annotations

import ctypes
import os
import platform

NEW_NAMESPACES = {
    "mount": 0x00020000, "cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000, "user": 0x10000000,
    "pid": 0x20000000, "net": 0x40000000,
}  # fmt: skip
READ_ONLY, NO_SETUID, NO_DEVICES, NO_EXECUTION, REMOUNT = 1, 2, 4, 8, 32  # mount(2)
BIND, RECURSIVE, PRIVATE = 4096, 16384, 1 << 18
DETACH = 2
PDEATHSIG, DUMPABLE, SECCOMP, NO_NEW_PRIVS = 1, 4, 22, 38  # prctl(2)
_CAPABILITIES_V3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, *arguments: int) -> None:
    """prctl(2)."""
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    _check(_libc.prctl(option, *padded), f"prctl {option}")


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """mount(2)."""
    kind_bytes = kind.encode() if kind else None
    done = _libc.mount(os.fsencode(source), os.fsencode(target), kind_bytes, ctypes.c_ulong(flags), options.encode())
    _check(done, f"mount {target}")


def unmount(target: str) -> None:
    """umount2(2), at once, whatever still uses it."""
    _check(_libc.umount2(os.fsencode(target), DETACH), f"unmount {target}")


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    number = {"x86_64": 155, "aarch64": 41}.get(platform.machine(), -1)  # -1 is no call
    _check(_libc.syscall(number, os.fsencode(new), os.fsencode(old)), "pivot_root")


def keep_capabilities(kept: frozenset[int]) -> None:
    """Give up every capability of this process but some, for good."""
    bits = sum(1 << number for number in kept)
    words = [bits & 0xFFFFFFFF, bits >> 32]
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0)
    data = (ctypes.c_uint32 * 6)(words[0], words[0], 0, words[1], words[1], 0)  # effective, permitted, inheritable
    _check(_libc.capset(header, data), "capset")


def seccomp(program: bytes) -> None:
    """Put a filter on this process's system calls, for good; it needs PR_SET_NO_NEW_PRIVS."""

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    built, rest = Program(len(program) // 8, program), ctypes.c_ulong(0)
    _check(_libc.prctl(SECCOMP, ctypes.c_ulong(2), ctypes.byref(built), rest, rest), "seccomp")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
