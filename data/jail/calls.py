"""A filter of system calls (seccomp): what no program of a contest needs, and a cheat may.

Other processes (ptrace, their memory, signals to them), sockets, memory and messages that outlive a process or
escape its limits (System V, POSIX queues, keyrings, memfd), mounts and namespaces, and kernel interfaces that were
ways out before (bpf, io_uring, userfaultfd, perf). They answer EPERM.
"""

from __future__ import annotations

import platform
import struct

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_DENIED = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438), "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "move_pages": (279, 239), "migrate_pages": (256, 238),
    "socket": (41, 198), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "userfaultfd": (323, 282), "bpf": (321, 280),
    "perf_event_open": (298, 241), "syslog": (103, 116),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
}  # fmt: skip
_ON_ITSELF = {"kill": (62, 129), "tgkill": (234, 131), "prlimit64": (302, 261)}
"""Their first argument must be the process's own id, or 0, which is its own group or itself."""

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _DENY, _KILL = 0x7FFF0000, 0x00050001, 0x80000000
_X32 = 0x40000000


def call_filter(process: int) -> bytes:
    """The filter for a process as BPF. Raises OSError for a machine whose calls are not known here."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise OSError(f"no filter of system calls for {machine}; there is one for {', '.join(_ARCHITECTURES)}")
    column = list(_ARCHITECTURES).index(machine)
    on_itself = [numbers[column] for numbers in _ON_ITSELF.values()]
    denied = [numbers[column] for numbers in _DENIED.values()]
    # After the checks: return allow, then the check of the argument, which ends with return deny.
    checks = len(on_itself) + len(denied)
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, _ARCHITECTURES[machine]), (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER), (_AT_LEAST, checks + 5, 0, _X32),
        *((_EQUAL, checks - place, 0, number) for place, number in enumerate(on_itself)),
        *((_EQUAL, len(denied) - place + 4, 0, number) for place, number in enumerate(denied)),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _FIRST_ARGUMENT), (_EQUAL, 1, 0, process), (_EQUAL, 0, 1, 0), (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _DENY),
    ]  # fmt: skip
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
