"""Processes that end with the one that started them, however it ends. Linux only."""

from __future__ import annotations

import ctypes
import signal

_PDEATHSIG = 1  # prctl(2)


def die_with_parent(sign: int = signal.SIGKILL) -> None:
    """Let the kernel send this process a signal when the thread that started it is gone."""
    ctypes.CDLL(None).prctl(_PDEATHSIG, sign, 0, 0, 0)


def end_with_parent() -> None:
    """The same, with the signal that servers take to close down."""
    die_with_parent(signal.SIGTERM)
