"""Reading from a process that may never answer."""

from __future__ import annotations

import os
import select
import time


def read_by(deadline: float, fd: int, size: int) -> bytes | None:
    """Up to `size` bytes as soon as there are any, empty at the end; None where none come by `time.monotonic()`."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return os.read(fd, size) if poll.poll(max(0.0, deadline - time.monotonic()) * 1000) else None
