"""Whether somebody is at an address."""

from __future__ import annotations

import urllib.request


def answers(url: str) -> bool:
    """Whether a server answers at an address."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:  # URLError is one
        return False
