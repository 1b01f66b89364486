"""Near duplicates among responses to one problem: the build's own answer, `rensa` and `datasketch` on the same rows.

All three compare runs of three units and call two responses alike from a similarity of 0.8; the peers estimate it from
128 permutations. The rule that texts with other numbers are never duplicates is given to all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.audit import Score
from benchmarks.prose import units
from benchmarks.results import record, seconds
from data import filters
from data.units import numerals

SHARDS = 4  # of the generated set
PERMUTATIONS = 128
SIMILARITY = 0.8
SHINGLE = 3

Found = set[str]


def compare(folder: Path, peers: Path, device: str) -> None:
    """Precision, recall and rows a second of each, recorded beside ours."""
    sys.path.append(str(peers))  # the project's own packages come first
    rows, planted = _rows(folder)
    scores, speeds = {}, {}
    for name, find in {"ours": ours, "rensa": rensa, "datasketch": datasketch}.items():
        found: Found = set()
        took = seconds(lambda find=find, found=found: found.update(find(rows)))
        scores[name] = Score(len(planted), len(found), len(found & planted))
        speeds[name] = len(rows) / took
        print(f"{name}: {scores[name]}, {took:.1f} s")
    for peer in ("rensa", "datasketch"):
        for figure in ("precision", "recall"):
            pair = getattr(scores["ours"], figure), getattr(scores[peer], figure)
            name = f"curation: near duplicates, {figure}, against {peer}"
            record(name, *pair, unit="of 1", goal="at least the peer's", device=device, packages=("polars",))
        name = f"curation: near duplicates, speed, against {peer}"
        record(name, speeds["ours"], speeds[peer], unit="rows/s", goal="shown", device=device, packages=("polars",))


def _rows(folder: Path) -> tuple[pl.DataFrame, Found]:
    """Good rows and copies of the first shards, and the ids of the copies that are duplicates, exact ones too."""
    shards = sorted((folder / "shards").iterdir())[:SHARDS]
    columns = ["id", "problem_id", "family", "language", "tokens", "prompt", "completion"]
    truth = pl.read_parquet(folder / "truth.parquet", columns=["id", "partner", "defect"])
    copies = pl.col("defect").str.contains("^(?:near_)?duplicate/")
    rows = pl.concat([pl.read_parquet(shard, columns=columns) for shard in shards]).join(truth, on="id")
    rows = rows.filter(pl.col("defect").is_null() | (copies & pl.col("partner").is_in(rows["id"].to_list()))).sort("id")
    nothing = pl.lit(None, pl.String)
    return rows.with_columns(nothing.alias("thinking"), nothing.alias("answer")), set(rows.filter(copies)["id"])


def ours(rows: pl.DataFrame) -> Found:
    """By the filters of a build."""
    _, dropped = filters.apply(rows, [filters.NearDuplicate(min_similarity=SIMILARITY, shingle=SHINGLE)])
    return set(dropped["id"])


def rensa(rows: pl.DataFrame) -> Found:
    """By rensa's MinHash."""
    from rensa import RMinHash

    def sketch(shingles: Sequence[str]) -> Any:
        made = RMinHash(num_perm=PERMUTATIONS, seed=1)
        made.update(shingles)
        return made

    return _alike(rows, sketch)


def datasketch(rows: pl.DataFrame) -> Found:
    """By datasketch's MinHash."""
    from datasketch import MinHash

    def sketch(shingles: Sequence[str]) -> Any:
        made = MinHash(num_perm=PERMUTATIONS, seed=1)
        made.update_batch([each.encode() for each in shingles])
        return made

    return _alike(rows, sketch)


def _alike(rows: pl.DataFrame, sketch: Callable[[Sequence[str]], Any]) -> Found:
    """Responses that are like an earlier one to their problem that stays, both with the same numbers."""
    found: Found = set()
    for group in rows.partition_by("problem_id", maintain_order=True):
        kept: dict[tuple[str, ...], list[Any]] = {}
        for id_, text in group.select("id", "completion").iter_rows():
            mine, others = sketch(_shingles(text)), kept.setdefault(tuple(numerals(text)), [])
            if any(mine.jaccard(other) >= SIMILARITY for other in others):
                found.add(id_)
            else:
                others.append(mine)
    return found


def _shingles(text: str) -> list[str]:
    found = units(text)
    return [" ".join(found[start : start + SHINGLE]) for start in range(len(found) - SHINGLE + 1)]
