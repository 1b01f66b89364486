"""Addresses of servers: whether one is an address, and whether somebody is there."""

from __future__ import annotations

import urllib.request
from urllib.parse import urlsplit


def host_of(url: str, name: str, example: str) -> str:
    """The host of an address. Raises ValueError, with the setting's name, for one without http(s) and a host."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{name} {url!r} is no address; give one such as {example}")
    return parts.hostname


def answers(url: str) -> bool:
    """Whether a server answers at an address."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:  # URLError is one
        return False
