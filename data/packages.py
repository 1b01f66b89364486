"""Files that come with an installed package, such as weights that a package index carries: `package:MODULE/FILE`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

PREFIX = "package:"


def file_in(place: str) -> Path:
    """Where the file of `package:MODULE/FILE` lies; the package is not imported.

    Raises ValueError where the place is not written so, or there is no such package or file.
    """
    module, _, name = place.removeprefix(PREFIX).partition("/")
    if not module.isidentifier() or not name:
        raise ValueError(f"{place!r}: write it as {PREFIX}MODULE/FILE")
    if not installed(place):
        raise ValueError(f"no package {module} here: pip install {module}")
    spec = find_spec(module)
    assert spec is not None
    for folder in spec.submodule_search_locations or ():
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise ValueError(f"the package {module} has no file {name}")


def installed(place: str) -> bool:
    """Whether the package of a place is there."""
    return find_spec(place.removeprefix(PREFIX).partition("/")[0]) is not None
