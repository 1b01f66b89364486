"""Time, memory and disk of a program and of all processes that it starts, seen from outside."""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a program took: seconds by the clock and of processors, the most memory at once, the most bytes below its
    folders, and the last line that it printed."""

    seconds: float
    processor: float
    memory: int
    disk: int
    last_line: str


def watched(command: Sequence[str], folders: Sequence[Path] = (), env: Mapping[str, str] | None = None) -> Footprint:
    """Run a program. Memory is what its processes have for themselves and their share of what they share.

    Raises RuntimeError where it fails.
    """
    begun, spent, memory, disk = time.perf_counter(), _spent(), 0, 0
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, env={**os.environ, **(env or {})})
        while process.poll() is None:
            memory = max(memory, sum(map(_memory, _family(process.pid))))
            disk = max(disk, sum(map(size_of, folders)))
            time.sleep(EVERY_S)
        took = time.perf_counter() - begun
        said.seek(0)
        lines = said.read().splitlines()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return Footprint(took, _spent() - spent, memory, max(disk, sum(map(size_of, folders))), lines[-1] if lines else "")


def _spent() -> float:
    """Processor seconds of the programs that have ended, and of those that these waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder; what vanishes meanwhile counts as nothing."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        children = [int(each) for task in Path(f"/proc/{pid}/task").iterdir() for each in _children(task)]
    except FileNotFoundError:
        return []
    return [pid, *(each for child in children for each in _family(child))]


def _children(task: Path) -> list[str]:
    try:
        return (task / "children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _memory(pid: int) -> int:
    """Proportional set size in bytes."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
