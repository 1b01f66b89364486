"""A filter of system calls (seccomp): what no program of a contest needs, and a cheat may.

Other processes (ptrace, their memory, signals to them, their share of the processor), sockets, memory and messages
that outlive a process or escape its limits (System V, POSIX queues, keyrings, memfd), mounts and namespaces, and
kernel interfaces that were ways out before (bpf, io_uring, userfaultfd, perf). Outside of a room also whatever
changes a file, since the program may be the user whose files those are. They answer EPERM.
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
    "setpriority": (141, 140), "ioprio_set": (251, 30), "perf_event_open": (298, 241), "syslog": (103, 116),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
}  # fmt: skip
_CHANGES_FILES = {
    "creat": (85, None), "openat2": (437, 437), "truncate": (76, 45), "rename": (82, None), "renameat": (264, 38),
    "renameat2": (316, 276), "unlink": (87, None), "unlinkat": (263, 35), "mkdir": (83, None), "mkdirat": (258, 34),
    "rmdir": (84, None), "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36),
    "mknod": (133, None), "mknodat": (259, 33), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchmodat2": (452, 452), "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16), "setxattrat": (463, 463), "removexattrat": (466, 466),
}  # fmt: skip
_ON_ITSELF = {
    "kill": (62, 129), "tgkill": (234, 131), "prlimit64": (302, 261), "sched_setaffinity": (203, 122),
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "sched_setattr": (314, 274),
}  # fmt: skip
"""Their first argument must be the process's own id, or 0, which is its own group or itself."""
_SIGNALS_OTHERS = {"fcntl": (72, 25), "ioctl": (16, 29)}
_COMMANDS = {"fcntl": (8, 10, 15), "ioctl": (0x8901, 0x8902)}
"""F_SETOWN, F_SETSIG, F_SETOWN_EX, FIOSETOWN, SIOCSPGRP, by the second argument: who is signalled, and how."""
_OPENS = {"open": (2, None), "openat": (257, 56)}
_FLAGS = {"open": 1, "openat": 2}  # which argument holds the flags, from 0
_WRITING = 0x1 | 0x2 | 0x40 | 0x200 | 0x400000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE without O_DIRECTORY

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data, of whose words the low half is first
_ALLOW, _DENY, _KILL = (_RETURN, 0, 0, 0x7FFF0000), (_RETURN, 0, 0, 0x00050001), (_RETURN, 0, 0, 0x80000000)
_X32 = 0x40000000

Line = tuple[int, int, int, int]


def call_filter(process: int, *, writes: bool) -> bytes:
    """The filter for a process as BPF; without `writes` it opens no file to write, and changes none.

    Raises OSError for a machine whose calls are not known here.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise OSError(f"no filter of system calls for {machine}; there is one for {', '.join(_ARCHITECTURES)}")
    column = list(_ARCHITECTURES).index(machine)
    rules: dict[int | None, list[Line]] = {numbers[column]: [_DENY] for numbers in _DENIED.values()}
    rules |= {numbers[column]: _only(process) for numbers in _ON_ITSELF.values()}
    rules |= {numbers[column]: _all_but(_COMMANDS[name]) for name, numbers in _SIGNALS_OTHERS.items()}
    if not writes:
        rules |= {numbers[column]: [_DENY] for numbers in _CHANGES_FILES.values()}
        rules |= {numbers[column]: _reading(_FLAGS[name]) for name, numbers in _OPENS.items()}
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, _ARCHITECTURES[machine]), _KILL,
        (_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _X32), _DENY,
    ]  # fmt: skip
    for number, rule in rules.items():
        if number is not None:
            lines += [(_EQUAL, 0, len(rule), number), *rule]
    return b"".join(struct.pack("=HBBI", *line) for line in (*lines, _ALLOW))


def _argument(number: int) -> Line:
    return _LOAD, 0, 0, _ARGUMENTS + 8 * number


def _only(process: int) -> list[Line]:
    return [_argument(0), (_EQUAL, 1, 0, process), (_EQUAL, 0, 1, 0), _ALLOW, _DENY]


def _all_but(commands: tuple[int, ...]) -> list[Line]:
    return [_argument(1), *(line for command in commands for line in ((_EQUAL, 0, 1, command), _DENY)), _ALLOW]


def _reading(flags: int) -> list[Line]:
    return [_argument(flags), (_ANY_BIT, 0, 1, _WRITING), _DENY, _ALLOW]
