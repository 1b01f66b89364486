"""Which problems are held out: decided by the language-free key, so both languages fall on one side."""

from __future__ import annotations

import zlib

HELD_OUT_ONE_IN = 20


def held_out(key: str) -> bool:
    """Whether the problem is for evaluation only: one key in 20, by CRC-32 of the key."""
    return zlib.crc32(key.encode()) % HELD_OUT_ONE_IN == 0
