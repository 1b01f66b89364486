"""The runs folder as a store: whether it is whole, and what in it nobody needs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from data.lineage import RECORD, Json, ancestors, broken_files, read_json, read_record
from data.lock import locked


def broken(runs: Path) -> Iterator[str]:
    """Name every artifact with a file that was changed or is missing, and what was made from it."""
    records = _records(runs)
    for key, record in records.items():
        if files := broken_files(runs / key):
            on_it = sorted(f"{each['name']} ({child})" for child, each in records.items() if key in _parents(each))
            depends = f"; made from it: {', '.join(on_it)}" if on_it else ""
            yield f"{record['name']} ({key}): {', '.join(files)}{depends}"


def collect_garbage(runs: Path, delete: bool) -> Iterator[str]:
    """Name, with its size, everything that is not part of the last run of some recipe, and delete it on request.

    What is being filled at the moment is locked and is left alone.
    """
    needed = _needed(runs)
    total = 0
    for folder in sorted(folder for folder in runs.glob("*-*") if _is_artifact(folder)):
        if folder.name not in needed:
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            total += size
            name = read_record(folder)["name"] if (folder / RECORD).is_file() else "unfinished"
            yield f"{_size(size):>9}  {folder.name}  {name}"
            if delete:
                lock = runs / f".{folder.name}.lock"
                with locked(lock):
                    shutil.rmtree(folder)
                    lock.unlink()
    done = "freed" if delete else "would be freed by r1 gc --delete"
    yield f"{_size(total):>9}  {done}; {len(needed)} artifacts are needed"


def _is_artifact(folder: Path) -> bool:
    """Whether a folder is a stage's, finished or not; a recipe's own has a name that may also have a dash."""
    named = re.fullmatch(r"[a-z_]+-[0-9a-f]{12}", folder.name) is not None
    return named and folder.is_dir() and not (folder / "recipe.json").exists()


def _needed(runs: Path) -> set[str]:
    """Keys of the artifacts of every recipe's last run, with all that they were made from."""
    found: set[str] = set()
    for report in runs.glob("*/report.json"):
        if (report.parent / "recipe.json").is_file():
            keys = [f"{stage['stage']}-{stage['fingerprint']}" for stage in read_json(report)["stages"]]
            found |= {record["key"] for key in keys if key not in found for _, record in ancestors(key, runs)}
    return found


def _records(runs: Path) -> dict[str, dict[str, Json]]:
    return {path.parent.name: read_record(path.parent) for path in sorted(runs.glob(f"[!.]*/{RECORD}"))}


def _parents(record: dict[str, Json]) -> set[str]:
    return {parent["key"] for parent in record["parents"]}


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
