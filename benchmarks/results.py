"""Where figures are kept, one JSON line each in `results.jsonl`, and how two programs are timed side by side."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

RESULTS = Path(__file__).parent / "results.jsonl"


def record(
    name: str,
    ours: float,
    peer: float | None = None,
    *,
    unit: str,
    goal: str,
    device: str = "",
    packages: Sequence[str] = (),
    ratio: float | None = None,
) -> None:
    """Keep a figure and print it; the row of that name and device is replaced, and rows stay sorted by name.

    `goal` says what the figure should be, as in `>= 5x` or `<= 0.05`; `packages` are those whose versions matter.
    """
    if ratio is None and peer:
        ratio = ours / peer
    row = {
        "name": name,
        "ours": _short(ours),
        "peer": _short(peer),
        "ratio": _short(ratio),
        "unit": unit,
        "goal": goal,
        "device": device or f"{os.cpu_count()} CPU cores",
        "versions": {"python": platform.python_version()} | {package: version(package) for package in packages},
    }
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.is_file() else ""
    others = [each for each in map(json.loads, text.splitlines()) if _key(each) != _key(row)]
    beside = RESULTS.with_suffix(".tmp")
    lines = [json.dumps(each, ensure_ascii=False) + "\n" for each in sorted([*others, row], key=_key)]
    beside.write_text("".join(lines), encoding="utf-8")
    beside.replace(RESULTS)
    print(
        f"{name}: {row['ours']} {unit}"
        + (f", peer {row['peer']}, ratio {row['ratio']}" if ratio else "")
        + f"  ({goal})"
    )


def paired(ours: Callable[[], object], peer: Callable[[], object], rounds: int = 5) -> tuple[float, float, float]:
    """Time two functions in turn; returns the median seconds of each and the median over rounds of peer / ours."""
    times = []
    for number in range(rounds):
        first, second = (ours, peer) if number % 2 == 0 else (peer, ours)
        a, b = seconds(first), seconds(second)
        times.append((a, b) if number % 2 == 0 else (b, a))
    return median(a for a, _ in times), median(b for _, b in times), median(b / a for a, b in times)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _key(row: Mapping[str, object]) -> tuple[str, str]:
    return str(row["name"]), str(row["device"])


def _short(value: float | None) -> float | None:
    """Four digits of a measure, and all of a count."""
    return None if value is None else float(value if isinstance(value, int) else f"{value:.4g}")
