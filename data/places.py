"""Which rows of a build stay where there is a quota, and where each row stands in the tables to come.

Both hang on all rows, which nobody holds: a bucket's rows are counted by the highest bits of their draw, so that the
one bucket of bits where a quota ends is known before any id is read; and ids are put in order by ranges of them, whose
edges are those of a sample. What is held of every row is 4 bytes, its place in the shuffled set.

    rank      range of ids  -> ranks      rows by their filter, over quota or kept, and how many such stand before
    count     general shard -> names      ids of general rows
    line_up   range of ids  -> lines      how many general rows stand before each
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from data.job import Job, general
from data.lineage import Json, read_json, seed_of, write_json

LIMITS: Final = "limits.json"
LAYOUT: Final = "layout.json"
SHUFFLE: Final = "shuffle.npy"
ALL: Final = ""
"""What stands for all domains among the limits."""

_HIGH: Final = 2**47  # draws have 63 bits; their highest 16 are counted
_SAMPLE: Final = 1_000  # ids of a bucket that edges are chosen from


def verdicts(job: Job, bucket: int, columns: Sequence[str]) -> pl.DataFrame:
    """Columns of a bucket's rows with their reasons."""
    return pl.read_parquet(job.file("verdicts", bucket), columns=list(columns))


def rows_of(job: Job, name: str, number: int) -> int:
    """How many rows a pass has written of something."""
    return int(pq.read_metadata(job.file(name, number)).num_rows)


def limit(job: Job) -> None:
    """Write down where each quota ends, and the edges of the ranges of ids."""
    limits: dict[str, Json] = _ends(job, job.mixture.quotas, {})
    if job.mixture.max_rows:
        limits |= _ends(job, {ALL: job.mixture.max_rows}, limits)
    ids = [_some(verdicts(job, bucket, ["id"])["id"]) for bucket in _buckets(job)]
    names = [_some(pl.read_parquet(job.file("names", number))["id"]) for number in _general(job)]
    write_json(
        job.workspace / LIMITS,
        {"limits": limits, "edges": _edges(ids, job.buckets), "general_edges": _edges(names, job.ranges)},
    )


def _general(job: Job) -> range:
    return range(len(job.trajectories), len(job.shards))


def _some(ids: pl.Series) -> pl.Series:
    return ids.gather_every(len(ids) // _SAMPLE + 1)


def _edges(samples: Sequence[pl.Series], ranges: int) -> list[str]:
    """The least id of each range but the first."""
    ids = pl.concat(samples).sort() if samples else pl.Series([], dtype=pl.String)
    return [ids[len(ids) * number // ranges] for number in range(1, ranges)] if len(ids) else []


def _ends(job: Job, quotas: Mapping[str, int], limits: Mapping[str, Json]) -> dict[str, Json]:
    """[draw, id] of the last row that stays of each domain that has more rows than its quota; `ALL` are all rows that
    `limits` leave."""

    def left(bucket: int, columns: Sequence[str]) -> pl.DataFrame:
        rows = verdicts(job, bucket, ["fired", "domain", "draw", "id"]).filter(pl.col("fired") == job.kept)
        if ALL in quotas:
            rows = rows.filter(~_is_over(limits)).with_columns(domain=pl.lit(ALL))
        return rows.filter(pl.col("domain").is_in([*quotas])).with_columns(high=pl.col("draw") // _HIGH).select(columns)

    if not quotas:
        return {}
    counts = pl.concat(left(bucket, ["domain", "high"]).group_by("domain", "high").len() for bucket in _buckets(job))
    ends: dict[str, tuple[int, int]] = {}  # domain -> (high bits, rows that stay of those)
    for (domain,), rows in counts.group_by("domain", "high").agg(pl.sum("len")).sort("high").group_by("domain"):
        most = quotas[str(domain)]
        before = rows["len"].cum_sum() - rows["len"]
        if most < rows["len"].sum():
            at = int((before < most).sum()) - 1
            ends[str(domain)] = (rows["high"][at], most - before[at]) if most else (-1, 0)
    found: dict[str, Json] = {domain: [-1, ""] for domain, (high, _) in ends.items() if high < 0}
    for domain, (high, stay) in ends.items():
        if high >= 0:
            here = (pl.col("domain") == domain) & (pl.col("high") == high)
            close = pl.concat(left(bucket, ["domain", "high", "draw", "id"]).filter(here) for bucket in _buckets(job))
            found[domain] = list(close.sort("draw", "id").select("draw", "id").row(stay - 1))
    return found


def _buckets(job: Job) -> range:
    return range(job.buckets)


def _is_over(limits: Mapping[str, Json]) -> pl.Expr:
    """Whether a row is one too many of its domain."""
    return pl.any_horizontal(
        pl.lit(False), *[(pl.col("domain") == domain) & _is_after(*end) for domain, end in limits.items()]
    )


def _is_after(draw: int, id_: str) -> pl.Expr:
    if draw < 0:
        return pl.lit(True)
    return (pl.col("draw") > draw) | ((pl.col("draw") == draw) & (pl.col("id") > id_))


def _in_range(edges: Sequence[str], number: int) -> pl.Expr:
    """Whether an id stands in a range."""
    above = pl.col("id") >= edges[number - 1] if number and edges else pl.lit(number == 0 or bool(edges))
    return above & (pl.col("id") < edges[number] if number < len(edges) else pl.lit(True))


def rank(job: Job, number: int, path: Path) -> None:
    """Put the rows of a range of ids in order: `rank` counts those of the same filter before each. `doubled` has the
    id of a row that shares it."""
    found = read_json(job.workspace / LIMITS)
    here = _in_range(found["edges"], number)
    rows = pl.concat(
        pl.scan_parquet(job.file("verdicts", bucket)).filter(here).collect() for bucket in _buckets(job)
    ).sort("id", "shard", "place")
    limits = found["limits"]
    over = pl.lit(None, pl.String)
    if ALL in limits:
        over = pl.when(_is_after(*limits.pop(ALL))).then(pl.lit(str(job.mixture.max_rows))).otherwise(over)
    for domain, end in limits.items():
        why = pl.lit(f"{domain}: {job.mixture.quotas[domain]}")
        over = pl.when((pl.col("domain") == domain) & _is_after(*end)).then(why).otherwise(over)
    rows = rows.with_columns(pl.when(pl.col("fired") == job.kept).then(over).alias("over")).select(
        "shard",
        "place",
        "domain",
        pl.when(pl.col("over").is_not_null()).then(job.kept - 1).otherwise("fired").cast(pl.Int32).alias("fired"),
        pl.coalesce("over", "detail").alias("detail"),
        pl.when(pl.col("id").is_duplicated()).then("id").alias("doubled"),
    )
    rows = rows.with_columns(pl.int_range(pl.len(), dtype=pl.UInt32).over("fired").alias("rank"))
    rows.sort("shard", "place").write_parquet(path, compression="lz4", row_group_size=20_000)


def count(job: Job, number: int, path: Path) -> None:
    """Name the rows of a shard of general rows."""
    rows = general(job, number).select("id", "place", pl.lit(number, pl.Int32).alias("shard"))
    rows.sort("id").write_parquet(path, compression="lz4")


def line_up(job: Job, number: int, path: Path) -> None:
    """Put the general rows of a range of ids in order."""
    here = _in_range(read_json(job.workspace / LIMITS)["general_edges"], number)
    files = [job.file("names", shard) for shard in _general(job)]
    rows = pl.concat(pl.scan_parquet(file).filter(here).collect() for file in files).sort("id", "shard", "place")
    rows = rows.select("shard", "place", pl.int_range(pl.len(), dtype=pl.UInt32).alias("rank"))
    rows.sort("shard", "place").write_parquet(path, compression="lz4", row_group_size=20_000)


class Ranks:
    """How many rows each filter took and how many were kept, by range of ids, and the kept ones by domain."""

    def __init__(self, job: Job) -> None:
        self.by_range: list[dict[int, int]] = []
        self.domains: dict[str, int] = {}
        self.doubled: list[str] = []
        self._job = job
        for number in _buckets(job):
            rows = pl.read_parquet(job.file("ranks", number), columns=["fired", "domain", "doubled"])
            self.by_range.append(dict(rows["fired"].value_counts().iter_rows()))
            for domain, found in rows.filter(pl.col("fired") == job.kept)["domain"].value_counts().iter_rows():
                self.domains[domain] = self.domains.get(domain, 0) + found
            self.doubled += rows["doubled"].drop_nulls().to_list()

    def rows(self, fired: int) -> int:
        """How many rows a filter took."""
        return sum(each.get(fired, 0) for each in self.by_range)

    @property
    def kept(self) -> int:
        return self.rows(self._job.kept)

    def last(self) -> str:
        """Why the row went that went last."""
        return str(self._job.reasons[max(fired for each in self.by_range for fired in each)])

    def most(self) -> tuple[str, int]:
        """The reason that took most rows, and how many."""
        found = {reason: self.rows(fired) for fired, reason in enumerate(self._job.reasons) if reason}
        return max(found.items(), key=lambda item: item[1])

    def offsets(self) -> list[list[int]]:
        """Where rows stand, by range and then by filter: kept ones among the kept, others among the dropped, where
        filters stand one after the other."""
        before = [*accumulate((self.rows(fired) for fired in range(self._job.kept)), initial=0)]
        before[-1] = 0
        found = []
        for each in self.by_range:
            found.append(list(before))
            before = [have + each.get(fired, 0) for fired, have in enumerate(before)]
        return found


def lay_out(job: Job, ranks: Ranks, general_rows: int) -> None:
    """Write down where the rows of each range stand, and the places of the set's rows: the kept by id, then so many
    general rows by id, shuffled."""
    lines = [rows_of(job, "lines", number) for number in range(job.ranges)]
    write_json(
        job.workspace / LAYOUT,
        {
            "offsets": ranks.offsets(),
            "general": [*accumulate(lines, initial=0)][:-1],
            "kept": ranks.kept,
            "rows": ranks.kept + general_rows,
        },
    )
    order = array("I", range(ranks.kept + general_rows))
    random.Random(seed_of(job.mixture.seed, "shuffle")).shuffle(order)
    places = np.empty(len(order), np.uint32)
    places[np.frombuffer(order, np.uint32)] = np.arange(len(order), dtype=np.uint32)
    beside = job.workspace / f".{SHUFFLE}"
    with beside.open("wb") as file:
        np.save(file, places)
    beside.replace(job.workspace / SHUFFLE)


def placed(job: Job, number: int) -> pl.DataFrame:
    """Where the rows of a shard stand in the set, `rows_at`, by `place`; of trajectories also `kept_at`, `dropped_at`,
    `reason` and `detail`."""
    layout = read_json(job.workspace / LAYOUT)
    shuffled = np.load(job.workspace / SHUFFLE, mmap_mode="r")
    if number >= len(job.trajectories):
        rows = _of_shard(job, "lines", number, job.ranges)
        at = layout["kept"] + np.array(layout["general"], np.int64)[rows["range"]] + rows["rank"].to_numpy()
        taken = at < layout["rows"]
        return rows.filter(pl.Series(taken)).select("place", pl.Series("rows_at", shuffled[at[taken]], pl.Int64))
    rows = _of_shard(job, "ranks", number, job.buckets)
    at = np.array(layout["offsets"], np.int64)[rows["range"], rows["fired"]] + rows["rank"].to_numpy()
    kept = (rows["fired"] == job.kept).to_numpy()
    in_set = pl.Series("rows_at", np.full(len(rows), -1, np.int64)).scatter(np.flatnonzero(kept), shuffled[at[kept]])
    rows = rows.with_columns(at=pl.Series(at), kept=pl.Series(kept), in_set=in_set)
    return rows.select(
        "place",
        pl.when("kept").then("at").alias("kept_at"),
        pl.when(~pl.col("kept")).then("at").alias("dropped_at"),
        pl.Series("reason", job.reasons, pl.String).gather(rows["fired"]),
        "detail",
        pl.when("kept").then("in_set").alias("rows_at"),
    )


def _of_shard(job: Job, name: str, shard: int, ranges: int) -> pl.DataFrame:
    """The ranks of a shard's rows, and the `range` that each comes from."""
    here = pl.col("shard") == shard
    found = [pl.scan_parquet(job.file(name, number)).filter(here).collect() for number in range(ranges)]
    return pl.concat(rows.with_columns(range=pl.lit(number, pl.Int64)) for number, rows in enumerate(found))
