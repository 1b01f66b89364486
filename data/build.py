"""Trajectories and general rows -> a fine-tuning set, at any size (DeepSeek-R1, 2.3.1 and 2.3.3 of version 1).

A build is declared: filters in order, the share of general rows or quotas by domain. It is done in passes
over shards (`data.passes`), by several processes where there is much to do, and holds no more than a few shards
at a time; of every row it holds the id and where it stands, no text. What comes out hangs neither on the shards
nor on the order of the rows, to the byte: rows are taken by id, and drawn by a hash of it.

A build that was stopped goes on with what it had not finished, from the folder that it works in.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Final, Literal

import polars as pl
from pydantic import Field, field_validator

from data import filters, passes
from data.filters import FilterConfig, name_of
from data.lineage import Json, Settings, canonical, read_json, seed_of, write_json
from data.mixture import GENERAL, check_met, domains_of, over_quota
from data.passes import PLACES, ROW, TABLES, TRAJECTORY, Job
from data.shards import SHARD_BYTES, Shard, read, shards_of
from data.store import write_table

ROWS_OF_A_BUCKET: Final = 200_000
MUCH: Final = 64 << 20
"""Bytes of input from which on several processes and machine code are worth their start."""

OVER_QUOTA: Final = "over_quota"
Progress = Callable[[int, int], None]


def readable_filters() -> list[FilterConfig]:
    """The filters that the paper names, with what it implies: right, readable, in one language, new."""
    return [
        filters.NotCorrect(),
        filters.NoThinking(),
        filters.NoSummary(),
        filters.Truncated(),
        filters.Malformed(),
        filters.MixedLanguage(),
        filters.LongParagraph(),
        filters.CodeBlock(),
        filters.Repetition(),
        filters.Contaminated(),
        filters.Duplicate(),
        filters.NearDuplicate(),
        filters.Surplus(max_per_problem=2),
    ]


class BuildConfig(Settings):
    """One build of a fine-tuning set."""

    filters: list[FilterConfig] = Field(
        default_factory=readable_filters, description="in order; the first that fires is a row's reason"
    )
    rewrite: bool = Field(False, description="bring the thinking into the question's language and add a summary")
    general_share: float = Field(
        0.25, ge=0, lt=1, description="share of non-reasoning rows in the set; paper: 200 of 800"
    )
    max_rows: int = Field(0, ge=0, description="reasoning rows at most; 0 keeps all")
    quotas: dict[str, Annotated[int, Field(ge=0)]] = Field(
        {}, description="rows of each domain, drawn by a hash; `general` fills up with written rows, whatever the share"
    )
    domains: dict[str, list[str]] = Field(
        {}, description="families of a domain; a family that stands in none is a domain itself"
    )
    on_short: Literal["stop", "go_on"] = Field("stop", description="where a domain has fewer rows than its quota")
    seed: int = 0

    @field_validator("filters")
    @classmethod
    def _named_once(cls, declared: list[FilterConfig]) -> list[FilterConfig]:
        names = [name_of(each) for each in declared]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two filters of one name: {', '.join(doubled)}")
        return declared

    @field_validator("domains")
    @classmethod
    def _in_one_domain(cls, domains: dict[str, list[str]]) -> dict[str, list[str]]:
        families = [family for each in domains.values() for family in each]
        if doubled := sorted({family for family in families if families.count(family) > 1}):
            raise ValueError(f"families of two domains: {', '.join(doubled)}")
        return domains


@dataclass(frozen=True, slots=True)
class Input:
    """What a build is made of: tables in Parquet, each a file or a folder of files, and the texts of evaluation
    problems and of their solutions."""

    trajectories: Path
    general: Path
    evaluation: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Built:
    """How many rows came in and went out."""

    trajectories: int
    kept: int
    dropped: int
    rows: int
    general: int


def build(
    given: Input,
    config: BuildConfig,
    folder: Path,
    workspace: Path,
    *,
    workers: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    on_progress: Progress | None = None,
) -> Built:
    """Write `rows`, `kept`, `dropped` and `waterfall` as Parquet into a folder.

    `kept` and `dropped` hold the trajectories, by id, and by reason and id; `rows` what a model learns, shuffled.
    `workspace` is the folder to work in, on the same file system; what an earlier attempt at the same build left
    there is used, and it is removed in the end. `workers` are the processors when left out; small builds use none.

    Raises ValueError where an input is broken, says where, and leaves no table behind.
    """
    job = _job(given, config, workspace, shard_bytes)
    with _Crew(job, _workers(job, workers), on_progress) as crew:
        crew.all("facts", range(len(job.trajectories)))
        crew.all("suspects", range(job.buckets))
        crew.all("looks", range(len(job.trajectories)))
        crew.all("prompts", range(job.buckets))
        crew.all("verdicts", range(job.buckets))
        built, waterfall = _placed(job, config)
        crew.all("dealt", range(len(job.shards)))
        crew.all("table", TABLES)
    for table in TABLES:
        job.file("table", table).replace(folder / f"{table}.parquet")
    write_table(folder / "waterfall.parquet", waterfall)
    shutil.rmtree(workspace)
    return built


def _job(given: Input, config: BuildConfig, workspace: Path, shard_bytes: int) -> Job:
    """Divide the work, and clear the workspace of what another build left."""
    trajectories = tuple(shards_of(given.trajectories, TRAJECTORY, shard_bytes))
    general = tuple(shards_of(given.general, ROW, shard_bytes))
    rows = sum(shard.rows for shard in trajectories)
    if not rows:
        raise ValueError(f"{given.trajectories}: no trajectory in it")
    if not given.evaluation and any(isinstance(each, filters.Contaminated) for each in config.filters):
        raise ValueError("contaminated: no evaluation problems to compare with; give some, or leave the filter out")
    many = sum(file.stat().st_size for file in {shard.file for shard in trajectories}) >= MUCH
    buckets = -(-rows // ROWS_OF_A_BUCKET)
    job = Job(workspace, tuple(config.filters), config.rewrite, trajectories, general, buckets, many)
    plan = {"config": canonical(config), "shards": [_identity(shard) for shard in job.shards]}
    if not (workspace / "plan.json").is_file() or read_json(workspace / "plan.json") != plan:
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir(parents=True)
        evaluation = pl.DataFrame({"text": list(given.evaluation)}, schema={"text": pl.String})
        write_table(workspace / "evaluation.parquet", evaluation)
        write_json(workspace / "plan.json", plan)
    return job


def _identity(shard: Shard) -> list[Json]:
    found = shard.file.stat()
    return [str(shard.file), found.st_size, found.st_mtime_ns, shard.first, shard.last]


def _workers(job: Job, wanted: int | None) -> int:
    if wanted is None:
        return len(os.sched_getaffinity(0)) if job.many else 0
    return wanted


class _Crew:
    """Runs a pass on all shards or buckets: in this process, or in several."""

    def __init__(self, job: Job, workers: int, on_progress: Progress | None) -> None:
        self._job, self._on_progress = job, on_progress
        self._pool = ProcessPoolExecutor(workers, get_context("spawn")) if workers else None
        self._done, self._total = 0, 2 * len(job.trajectories) + 3 * job.buckets + len(job.shards) + len(TABLES)

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def all(self, name: str, items: Sequence[int] | Sequence[str]) -> None:
        """Run a pass on what has not been done yet. The first error stops it."""
        for _ in self._made(name, items):
            self._done += 1
            if self._on_progress:
                self._on_progress(self._done, self._total)

    def _made(self, name: str, items: Sequence[int] | Sequence[str]) -> Iterator[None]:
        if self._pool is None:
            for item in items:
                passes.make(self._job, name, item)
                yield
            return
        todo = [item for item in items if not passes.done(self._job, name, item)]
        yield from [None] * (len(items) - len(todo))
        try:
            for each in as_completed([self._pool.submit(passes.make, self._job, name, item) for item in todo]):
                yield each.result()
        except BrokenProcessPool:
            raise ValueError(f"a process of the build was killed while it made {name}; too little memory?") from None


def _placed(job: Job, config: BuildConfig) -> tuple[Built, pl.DataFrame]:
    """Decide which rows go where, and write down their places in each table; returns counts and the waterfall."""
    ledger = pl.concat([pl.read_parquet(job.file("verdicts", bucket)) for bucket in range(job.buckets)]).sort("id")
    doubled = ledger["id"].filter(ledger["id"].is_duplicated())
    if len(doubled):
        raise ValueError(f"{len(doubled)} rows share their id with another, for example {doubled[0]!r}")
    ledger = _reasoned(_capped(ledger, job, config), config)
    kept, dropped = ledger.filter(pl.col("reason").is_null()), ledger.filter(pl.col("reason").is_not_null())
    if kept.is_empty():
        raise ValueError(_nothing_left(ledger))
    have = dict(kept["domain"].value_counts().iter_rows())
    general = _general(job, len(kept), have.get(GENERAL, 0), config)
    have[GENERAL] = have.get(GENERAL, 0) + len(general)
    if config.on_short == "stop":
        check_met(have, config.quotas)
    rows = _shuffled(pl.concat([kept.select("shard", "place"), general.select("shard", "place")]), config.seed)
    places = pl.concat(
        [
            kept.select("shard", "place", "reason", "detail").with_row_index("kept_at"),
            dropped.sort("fired", "id").select("shard", "place", "reason", "detail").with_row_index("dropped_at"),
            general.select("shard", "place"),
        ],
        how="diagonal",
    ).join(rows, on=["shard", "place"], how="left")
    places.sort("shard", "place").write_parquet(job.workspace / PLACES, row_group_size=20_000)
    waterfall = filters.waterfall(ledger, dropped, kept, config.filters)
    return Built(len(ledger), len(kept), len(dropped), len(rows), len(general)), waterfall


def _capped(ledger: pl.DataFrame, job: Job, config: BuildConfig) -> pl.DataFrame:
    """Drop what is over `max_rows` or a domain's quota, drawn by a hash of the seed and the id."""
    ledger = ledger.with_columns(domains_of(ledger, config.domains))
    left = ledger.filter(pl.col("fired") == job.kept)
    over = over_quota(left, config.quotas, config.seed)
    if config.max_rows:
        order = sorted(set(left["id"]) - over.keys(), key=lambda id_: seed_of(config.seed, "quota", id_))
        over |= dict.fromkeys(order[config.max_rows :], str(config.max_rows))
    if not over:
        return ledger
    found = pl.DataFrame({"id": list(over), "why": list(over.values())})
    why = pl.col("why")
    return (
        ledger.join(found, on="id", how="left", maintain_order="left")
        .with_columns(
            pl.when(why.is_not_null()).then(job.kept - 1).otherwise("fired").alias("fired"),
            pl.coalesce(why, "detail").alias("detail"),
        )
        .drop("why")
    )


def _reasoned(ledger: pl.DataFrame, config: BuildConfig) -> pl.DataFrame:
    reasons = pl.Series("reason", [*map(name_of, config.filters), OVER_QUOTA, None], pl.String)
    return ledger.with_columns(reasons.gather(ledger["fired"]))


def _nothing_left(ledger: pl.DataFrame) -> str:
    most, number = ledger["reason"].value_counts(sort=True).row(0)
    last = ledger.sort("fired", "id")["reason"][-1]
    return (
        f"the filters leave no row of {len(ledger)}; most were dropped as {most!r} ({number}), the last one as {last!r}"
    )


def _general(job: Job, reasoning: int, sampled: int, config: BuildConfig) -> pl.DataFrame:
    """Where the general rows stand that the quota asks for beside those `sampled`, or the share: the first by id."""
    wanted = round(reasoning * config.general_share / (1 - config.general_share))
    ids = [
        read(shard, ROW, ["id"]).with_row_index("place").with_columns(shard=pl.lit(number, pl.Int32))
        for number, shard in enumerate(job.general, len(job.trajectories))
    ]
    found = pl.concat(ids) if ids else pl.DataFrame(schema={"place": pl.UInt32, "id": pl.String, "shard": pl.Int32})
    if GENERAL in config.quotas:
        return found.sort("id").head(max(0, config.quotas[GENERAL] - sampled))
    if wanted > len(found):
        raise ValueError(
            f"general_share = {config.general_share} of {reasoning} reasoning rows asks for {wanted} general "
            f"rows, and there are {len(found)}: raise general.rows or lower general_share"
        )
    return found.sort("id").head(wanted)


def _shuffled(rows: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Give rows their places in the set."""
    order = list(range(len(rows)))
    random.Random(seed_of(seed, "shuffle")).shuffle(order)
    return rows[order].with_row_index("rows_at")
