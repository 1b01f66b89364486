"""Locks between processes that the system frees when their owner dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on a file. Without `wait`, raises BlockingIOError where another process holds it.

    The process must open the file nowhere else: closing any descriptor of it would free the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except PermissionError as error:  # EACCES: what some systems say for EAGAIN
            raise BlockingIOError(error.errno, error.strerror, str(path)) from None
        yield
    finally:
        os.close(descriptor)


def lane(device: str) -> str:
    """The name of what a device runs on, the same for all processes that see it.

    `cuda` is the first GPU that a process sees; where `CUDA_VISIBLE_DEVICES` shows it some of them, in its order,
    their own names count.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return device
    index = int(number or 0)
    seen = [each.strip() for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each.strip()]
    return f"cuda-{seen[index] if index < len(seen) else index}"
