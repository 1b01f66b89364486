"""What the passes of a build are told, and the rows that they read: those of a shard less what is set aside."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import polars as pl

from data.filters import Context, FilterConfig, GroupFilter, NearDuplicatePrompt, name_of
from data.mixture import OVER_QUOTA, Mixture
from data.records import Row
from data.scan import taken_apart
from data.shards import Column, Shard, read

TRAJECTORY: Final[Mapping[str, Column]] = {
    **dict.fromkeys(("id", "problem_id", "family", "language", "prompt", "completion"), Column("text", nullable=False)),
    "tokens": Column("whole", nullable=False),
    **dict.fromkeys(("verifier", "finish", "verdict", "reason_detail"), Column("text")),
    **dict.fromkeys(("thinking", "answer"), Column("text", optional=True)),
    "well_formed": Column("truth", optional=True),
    "consistency": Column("number", optional=True),
}
"""Columns that a build reads of a trajectory; others are carried along. A table without `thinking` holds completions in
the chat template, which are taken apart here."""

PIECE: Final = 4 << 20
"""Bytes of the rows that are worked on at a time: the dozen copies that are made of a text on its way stay near the
processor, and memory is used again, not given back to the system and cleared by it once more."""

ROW: Final[Mapping[str, Column]] = dict.fromkeys(Row.__dataclass_fields__, Column("text", nullable=False))


@dataclass(frozen=True, slots=True)
class Job:
    """What every pass of one build is told. There are as many `buckets` of problems as ranges of their rows' ids, and
    `ranges` of the ids of general rows."""

    workspace: Path
    filters: tuple[FilterConfig, ...]
    rewrite: bool
    mixture: Mixture
    trajectories: tuple[Shard, ...]
    general: tuple[Shard, ...]
    buckets: int
    ranges: int
    many: bool
    set_aside: bool = False

    def file(self, name: str, number: int | str) -> Path:
        """Where a pass writes what it makes of a shard, bucket or table."""
        return self.workspace / (f"{name}-{number}" if name == "dealt" else f"{name}-{number}.parquet")

    @property
    def kept(self) -> int:
        """What stands for a row's filter where none fires; the number before it is for what is over a quota."""
        return len(self.filters) + 1

    @property
    def reasons(self) -> list[str | None]:
        """What a row's filter is called, by its number."""
        return [*map(name_of, self.filters), OVER_QUOTA, None]

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Those of the trajectories, then those of the general rows."""
        return self.trajectories + self.general

    def groups(self) -> Iterable[tuple[int, GroupFilter]]:
        """The filters that compare rows, with their places in the declared order."""
        return ((order, each) for order, each in enumerate(self.filters) if isinstance(each, GroupFilter))

    def across(self) -> tuple[int, NearDuplicatePrompt] | None:
        """The filter that compares problems, where one is declared."""
        found = ((order, each) for order, each in enumerate(self.filters) if isinstance(each, NearDuplicatePrompt))
        return next(found, None)


Pass = Callable[[Job, Any, Path], None]


def done(job: Job, name: str, item: int | str) -> bool:
    """Whether a pass has made its file of a shard, bucket or table."""
    return job.file(name, item).exists()


def made(job: Job, name: str, item: int | str, make: Pass) -> None:
    """Run a pass on one shard, bucket or table, unless its file is there; the file appears whole."""
    if done(job, name, item):
        return
    path = job.file(name, item)
    beside = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
    try:
        make(job, item, beside)
        beside.replace(path)
    except BaseException:
        shutil.rmtree(beside) if beside.is_dir() else beside.unlink(missing_ok=True)
        raise


@cache
def context(workspace: Path) -> Context:
    """What filters are told of the evaluation problems."""
    return Context(pl.read_parquet(workspace / "evaluation.parquet")["text"].to_list())


def trajectories(job: Job, number: int, only: pl.Series | None = None) -> Iterator[pl.DataFrame]:
    """A shard of trajectories in parts, with the `place` of each row, or those at some places; some rows at a time, at
    least one table."""
    frame = _placed(job, number, TRAJECTORY)
    size = max(1, len(frame) * PIECE // max(1, int(frame.estimated_size())))
    if only is not None:
        frame = frame.filter(pl.col("place").is_in(only.implode()))
    for begin in range(0, max(1, len(frame)), size):
        yield taken_apart(frame.slice(begin, size))


def general(job: Job, number: int) -> pl.DataFrame:
    """A shard of general rows, counted behind those of the trajectories, with the `place` of each row."""
    return _placed(job, number, ROW, list(ROW))


def _placed(job: Job, number: int, columns: Mapping[str, Column], only: list[str] | None = None) -> pl.DataFrame:
    shard, places = job.shards[number], None
    if job.set_aside:
        faults = pl.read_parquet(job.file("broken", number))["place"]
        places = [] if faults.null_count() else sorted({*range(shard.rows)} - {*faults})
    frame = read(shard, columns, only, places)
    index = pl.Series("place", range(len(frame)) if places is None else places, pl.UInt32)
    return frame.select(index, pl.all())
