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
