"""Trajectories and general rows -> a fine-tuning set, at any size (DeepSeek-R1, 2.3.1 and 2.3.3 of version 1).

A build is declared: filters in order, the share of general rows or quotas by domain. It is done in passes
over shards (`data.passes`), by several processes where there is much to do or on a cluster (`data.crew`), and nobody
holds more than a few shards or a range of the rows' ids at a time (`data.places`). What comes out hangs neither on the
shards nor on the order of the rows, to the byte: rows are taken by id, and drawn by a hash of it.

A build that was stopped goes on with what it had not finished, from the folder that it works in.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import polars as pl
from pydantic import Field, field_validator

from data import filters, places
from data.crew import Crew, Progress
from data.filters import FilterConfig, name_of
from data.job import ROW, TRAJECTORY, Job
from data.lineage import WHEN_SET, Json, Settings, canonical, read_json, write_json
from data.mixture import GENERAL, OVER_QUOTA, Mixture, check_met
from data.passes import TABLES
from data.shards import SHARD_BYTES, Column, Shard, divided, files_of, rows_in
from data.store import write_table
from data.waterfall import BROKEN, IN, KEPT

ROWS_OF_A_BUCKET: Final = 100_000
MUCH: Final = 64 << 20
"""Bytes of input from which on several processes and machine code are worth their start."""


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
    on_broken: Literal["stop", "set_aside"] = Field(
        "stop", description="where a row, shard or file is broken; `broken` lists what is set aside",
        json_schema_extra=WHEN_SET,
    )  # fmt: skip
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
    broken: int = 0


def build(
    given: Input,
    config: BuildConfig,
    folder: Path,
    workspace: Path,
    *,
    workers: int | None = None,
    cluster: str = "",
    shard_bytes: int = SHARD_BYTES,
    on_progress: Progress | None = None,
) -> Built:
    """Write `rows`, `kept`, `dropped` and `waterfall` as Parquet into a folder, `broken` too where that is set aside.

    `kept` and `dropped` hold the trajectories, by id, and by reason and id; `rows` what a model learns, shuffled;
    `broken` the table, file and row of what cannot be read, and how many rows that are, null where nobody can tell.
    `workspace` is the folder to work in, on the same file system; what an earlier attempt at the same build left
    there is used, and it is removed in the end. `workers` are the processors when left out; small builds use none.
    `cluster` is the address of a Ray cluster that does the work instead, all of whose nodes see these folders.

    Raises ValueError where an input is broken, says where, and leaves no table behind.
    """
    job, unread = _job(given, config, workspace, shard_bytes)
    with Crew(job, workers, cluster, on_progress) as crew:
        shards, general = range(len(job.trajectories)), range(len(job.trajectories), len(job.shards))
        crew.all("broken", range(len(job.shards)) if job.set_aside else ())
        crew.all("facts", shards)
        crew.all("suspects", range(job.buckets))
        crew.all("looks", shards)
        crew.all("prompts", range(job.buckets))
        crew.all("verdicts", range(job.buckets))
        crew.all("names", general)
        places.limit(job)
        crew.all("ranks", range(job.buckets))
        crew.all("lines", range(job.ranges))
        broken = pl.concat([unread, *_broken(job)])
        built, waterfall = _settled(job, config, broken)
        crew.all("dealt", range(len(job.shards)))
        crew.all("table", TABLES)
    for table in TABLES:
        job.file("table", table).replace(folder / f"{table}.parquet")
    if job.set_aside:
        write_table(folder / "broken.parquet", broken)
    write_table(folder / "waterfall.parquet", waterfall)
    shutil.rmtree(workspace)
    return built


def _job(given: Input, config: BuildConfig, workspace: Path, shard_bytes: int) -> tuple[Job, pl.DataFrame]:
    """Divide the work, and clear the workspace of what another build left; also the files that cannot be read."""
    set_aside = config.on_broken == "set_aside"
    trajectories, first = _shards("trajectories", given.trajectories, TRAJECTORY, shard_bytes, set_aside)
    general, second = _shards("general", given.general, ROW, shard_bytes, set_aside)
    rows = sum(shard.rows for shard in trajectories)
    if not rows:
        raise ValueError(f"{given.trajectories}: no trajectory in it")
    if not given.evaluation and any(isinstance(each, filters.Contaminated) for each in config.filters):
        raise ValueError("contaminated: no evaluation problems to compare with; give some, or leave the filter out")
    many = sum(file.stat().st_size for file in {shard.file for shard in trajectories}) >= MUCH
    job = Job(
        workspace, tuple(config.filters), config.rewrite,
        Mixture(config.seed, config.quotas, config.domains, config.max_rows), trajectories, general,
        -(-rows // ROWS_OF_A_BUCKET), -(-sum(shard.rows for shard in general) // ROWS_OF_A_BUCKET), many, set_aside,
    )  # fmt: skip
    plan = {"config": canonical(config), "shards": [_identity(shard) for shard in job.shards]}
    if not (workspace / "plan.json").is_file() or read_json(workspace / "plan.json") != plan:
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir(parents=True)
        evaluation = pl.DataFrame({"text": list(given.evaluation)}, schema={"text": pl.String})
        write_table(workspace / "evaluation.parquet", evaluation)
        write_json(workspace / "plan.json", plan)
    return job, pl.concat([first, second])


_BROKEN: Final = {"table": pl.String, "file": pl.String, "row": pl.Int64, "rows": pl.Int64, "what": pl.String}


def _shards(
    table: str, path: Path, columns: Mapping[str, Column], size: int, set_aside: bool
) -> tuple[tuple[Shard, ...], pl.DataFrame]:
    """The shards of a table, and its files that cannot be divided, where these are set aside."""
    shards: list[Shard] = []
    unread: list[dict[str, object]] = []
    for file in files_of(path):
        try:
            shards += divided(file, columns, size)
        except ValueError as error:
            if not set_aside:
                raise
            unread.append({"table": table, "file": str(file), "rows": rows_in(file), "what": str(error)})
    return tuple(shards), pl.DataFrame(unread, schema=_BROKEN)


def _broken(job: Job) -> Iterator[pl.DataFrame]:
    """The rows of each shard that are set aside."""
    for number, shard in enumerate(job.shards if job.set_aside else ()):
        found = pl.read_parquet(job.file("broken", number))
        yield found.select(
            table=pl.lit("trajectories" if number < len(job.trajectories) else "general"),
            file=pl.lit(str(shard.file)),
            row=pl.col("place").cast(pl.Int64) + shard.begin,
            rows=pl.when(pl.col("place").is_null()).then(shard.rows).otherwise(1).cast(pl.Int64),
            what="what",
        )


def _identity(shard: Shard) -> list[Json]:
    found = shard.file.stat()
    return [str(shard.file), found.st_size, found.st_mtime_ns, shard.first, shard.last]


def _settled(job: Job, config: BuildConfig, broken: pl.DataFrame) -> tuple[Built, pl.DataFrame]:
    """Count what came out and say where each row goes; returns counts and the waterfall."""
    ranks = places.Ranks(job)
    if ranks.doubled:
        raise ValueError(f"{len(ranks.doubled)} rows share their id with another, for example {ranks.doubled[0]!r}")
    unread = int(broken.filter(pl.col("table") == "trajectories")["rows"].sum())
    total = sum(ranks.rows(fired) for fired in range(job.kept + 1))
    if not ranks.kept:
        raise ValueError(_nothing_left(ranks, total, unread))
    have = dict(ranks.domains)
    general = _general(job, ranks.kept, have.get(GENERAL, 0), config)
    have[GENERAL] = have.get(GENERAL, 0) + general
    if config.on_short == "stop":
        check_met(have, config.quotas)
    places.lay_out(job, ranks, general)
    reasons = {str(reason): ranks.rows(fired) for fired, reason in enumerate(job.reasons[: job.kept])}
    if not reasons[OVER_QUOTA]:
        del reasons[OVER_QUOTA]
    first = {BROKEN: unread} if job.set_aside else {}
    steps = [(IN, total + unread), *first.items(), *reasons.items(), (KEPT, ranks.kept)]
    waterfall = pl.DataFrame(steps, schema={"reason": pl.String, "rows": pl.Int64}, orient="row")
    return Built(total + unread, ranks.kept, total - ranks.kept, ranks.kept + general, general, unread), waterfall


def _nothing_left(ranks: places.Ranks, total: int, unread: int) -> str:
    if not total:
        return f"no whole trajectory in it; {unread} are broken"
    most, number = ranks.most()
    return (
        f"the filters leave no row of {total}; most were dropped as {most!r} ({number}), the last one as "
        f"{ranks.last()!r}"
    )


def _general(job: Job, reasoning: int, sampled: int, config: BuildConfig) -> int:
    """How many general rows the quota asks for beside those `sampled`, or the share."""
    there = sum(places.rows_of(job, "names", number) for number in range(len(job.trajectories), len(job.shards)))
    if GENERAL in config.quotas:
        return min(there, max(0, config.quotas[GENERAL] - sampled))
    wanted = round(reasoning * config.general_share / (1 - config.general_share))
    if wanted > there:
        raise ValueError(
            f"general_share = {config.general_share} of {reasoning} reasoning rows asks for {wanted} general "
            f"rows, and there are {there}: raise general.rows or lower general_share"
        )
    return wanted
