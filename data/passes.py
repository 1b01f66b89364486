"""The passes of a build: each is a function from one shard or one bucket of problems to one file.

    scan      shard  -> facts      the row filters' reasons; what group filters must know of each row
    suspect   bucket -> suspects   rows whose texts a group filter must see once more
    look      shard  -> looks      what it sees there
    sift      bucket -> prompts    near duplicates among prompts with the same numerals
    judge     bucket -> verdicts   every row's reason, null for those that stay
    deal      shard  -> dealt      rows of each table to come, by the bin that they will stand in
    serve     table  -> a Parquet file, bin after bin

A pass reads the input and files of earlier passes only, writes beside its file and renames, and does nothing
where its file exists already: so it runs anywhere, twice, in any order within its kind, and goes on where a
killed build stopped. No pass holds more than a shard, a bucket or a bin.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from data.filters import (
    Contaminated,
    Context,
    FilterConfig,
    GroupFilter,
    NearDuplicatePrompt,
    Repetition,
    with_language,
)
from data.filters.kinds import KEPT_FACTS
from data.language import consistency
from data.prompts import ASSISTANT, BEGIN, TAGS, USER
from data.records import Row
from data.scan import measured, taken_apart
from data.shards import Column, Shard, read
from data.world.graded import GRADED
from data.world.rewrite import summary, translate

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

ROW: Final[Mapping[str, Column]] = dict.fromkeys(Row.__dataclass_fields__, Column("text", nullable=False))
BIN: Final = 4096  # rows of a row group of what comes out
TABLES: Final = ("kept", "dropped", "rows")
UNLIKE: Final = frozenset(("id", "prompt", "completion", "thinking", "answer"))  # columns without a dictionary
PLACES: Final = "places.parquet"
AT: Final = "at"


@dataclass(frozen=True, slots=True)
class Job:
    """What every pass of one build is told."""

    workspace: Path
    filters: tuple[FilterConfig, ...]
    rewrite: bool
    trajectories: tuple[Shard, ...]
    general: tuple[Shard, ...]
    buckets: int
    many: bool

    def file(self, name: str, number: int | str) -> Path:
        """Where a pass writes what it makes of a shard, bucket or table."""
        return self.workspace / (f"{name}-{number}" if name == "dealt" else f"{name}-{number}.parquet")

    @property
    def kept(self) -> int:
        """What stands for a row's filter where none fires; the number before it is for what is over a quota."""
        return len(self.filters) + 1

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Those of the trajectories, then those of the general rows."""
        return self.trajectories + self.general


Pass = Callable[[Job, Any, Path], None]


def done(job: Job, name: str, item: int | str) -> bool:
    """Whether a pass has made its file of a shard, bucket or table."""
    return job.file(name, item).exists()


def make(job: Job, name: str, item: int | str) -> None:
    """Run a pass on one shard, bucket or table, unless its file is there."""
    if done(job, name, item):
        return
    path = job.file(name, item)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        PASSES[name](job, item, beside)
        beside.replace(path)
    except BaseException:
        shutil.rmtree(beside) if beside.is_dir() else beside.unlink(missing_ok=True)
        raise


@cache
def _context(workspace: Path) -> Context:
    return Context(pl.read_parquet(workspace / "evaluation.parquet")["text"].to_list())


def _trajectories(job: Job, number: int) -> pl.DataFrame:
    frame = taken_apart(read(job.trajectories[number], TRAJECTORY))
    return rewritten(frame) if job.rewrite else frame


def _measured(job: Job, frame: pl.DataFrame) -> pl.DataFrame:
    run = next((each.ngram for each in job.filters if isinstance(each, Contaminated)), 10)
    gram = next((each.ngram for each in job.filters if isinstance(each, Repetition)), 8)
    return measured(frame, tuple(_context(job.workspace).evaluation), run, gram)


def rewritten(frame: pl.DataFrame) -> pl.DataFrame:
    """Replace thinking and answer by their readable form; what cannot be rewritten stays, for the filters."""
    columns = ("family", "verifier", "language", "thinking", "answer")
    pairs = [_readable(*row) for row in frame.select(columns).iter_rows()]
    thinking = [pair[0] if pair else old for pair, old in zip(pairs, frame["thinking"], strict=True)]
    answer = [pair[1] if pair else old for pair, old in zip(pairs, frame["answer"], strict=True)]
    return with_language(
        frame.with_columns(pl.Series("thinking", thinking, pl.String), pl.Series("answer", answer, pl.String))
    )


def _readable(
    family: str, verifier: str, language: Any, thinking: str | None, answer: str | None
) -> tuple[str, str] | None:
    """Thinking in one language and a summary; graded families have words that no table translates."""
    if not thinking or not answer:
        return None
    if family in GRADED:
        readable = None if consistency(thinking, language).mixed() else thinking
    else:
        readable = translate(thinking, language)
    return (readable, summary(verifier, language, answer)) if readable else None


def scan(job: Job, number: int, path: Path) -> None:
    """Find the first row filter that fires on each row, and take the facts that group filters need.

    `fired` is the filter's place in the declared order, `Job.kept` where none fires.
    """
    alive = _trajectories(job, number).with_row_index("place")
    facts = alive.select("place", *KEPT_FACTS)
    fired = alive.select("place", pl.lit(job.kept, pl.Int32).alias("fired"), pl.lit(None, pl.String).alias("detail"))
    for order, each in enumerate(job.filters):
        if job.many and "walk.lines" not in alive.columns and (isinstance(each, GroupFilter) or each.measured):
            alive = _measured(job, alive)
        if isinstance(each, GroupFilter):
            columns = pl.DataFrame([alive["place"], *each.facts(alive)])
            facts = facts.join(columns, on="place", how="left", maintain_order="left")
            continue
        details = each.details(alive, _context(job.workspace))
        hits = details.is_not_null()
        found = pl.DataFrame([alive["place"].filter(hits), details.filter(hits)])
        found = found.with_columns(pl.lit(order, pl.Int32).alias("fired"))
        fired = fired.update(found, on="place")
        alive = alive.filter(~hits)
    facts = facts.join(fired, on="place", maintain_order="left").with_columns(
        pl.lit(number, pl.Int32).alias("shard"),
        (pl.col("problem_id").hash(seed=0) % job.buckets).cast(pl.Int32).alias("bucket"),
    )
    facts.write_parquet(path, compression="lz4")


def _gathered(job: Job, name: str, bucket: int) -> pl.DataFrame:
    files = [job.file(name, number) for number in range(len(job.trajectories))]
    found = [pl.read_parquet(file).filter(pl.col("bucket") == bucket) for file in files]
    return pl.concat(found)


def _group_filters(job: Job) -> Iterator[tuple[int, GroupFilter]]:
    return ((order, each) for order, each in enumerate(job.filters) if isinstance(each, GroupFilter))


def suspect(job: Job, bucket: int, path: Path) -> None:
    """Name the rows of a bucket whose texts group filters must see again."""
    facts = _gathered(job, "facts", bucket)
    marks = pl.repeat(False, len(facts), dtype=pl.Boolean, eager=True)
    for order, each in _group_filters(job):
        alive = facts["fired"] > order
        suspects = each.suspects(facts.filter(alive))
        if suspects is not None:
            rows = alive.arg_true().filter(suspects)
            marks = marks.scatter(rows, True) if len(rows) else marks
    facts.filter(marks).select("shard", "place").write_parquet(path)


def look(job: Job, number: int, path: Path) -> None:
    """See the suspects of a shard again."""
    files = [job.file("suspects", bucket) for bucket in range(job.buckets)]
    places = pl.concat([pl.read_parquet(file).filter(pl.col("shard") == number) for file in files])["place"].sort()
    if places.is_empty():
        frame = pl.DataFrame(schema=dict.fromkeys(TRAJECTORY, pl.String) | {"place": pl.UInt32})
    else:
        frame = _trajectories(job, number).with_row_index("place")[places]
    looks = [column for _, each in _group_filters(job) for column in each.looks(frame, job.many)]
    pl.DataFrame(
        [
            pl.Series("shard", [number], pl.Int32).new_from_index(0, len(frame)),
            frame["place"],
            (frame["problem_id"].hash(seed=0) % job.buckets).cast(pl.Int32).alias("bucket"),
            *looks,
        ]
    ).write_parquet(path, compression="lz4")


def _across(job: Job) -> tuple[int, NearDuplicatePrompt] | None:
    return next(
        ((order, each) for order, each in enumerate(job.filters) if isinstance(each, NearDuplicatePrompt)), None
    )


def sift(job: Job, bucket: int, path: Path) -> None:
    """Find near duplicates among the prompts that share their numerals, of all problems with a row left."""
    across = _across(job)
    if across is None:
        pl.DataFrame(schema={"problem_id": pl.String, "partner": pl.String}).write_parquet(path)
        return
    order, each = across
    columns = ["problem_id", "prompt_numerals", "prompt_shingles"]
    left = (pl.col("fired") > order) & (pl.col("prompt_numerals") % job.buckets == bucket)
    files = [job.file("facts", number) for number in range(len(job.trajectories))]
    prompts = pl.concat(
        pl.read_parquet(file, columns=[*columns, "fired"]).filter(left).select(columns) for file in files
    )
    each.alike(prompts.unique("problem_id", keep="first")).write_parquet(path)


def judge(job: Job, bucket: int, path: Path) -> None:
    """Give every row of a bucket its reason: the first filter that fires on what the earlier ones left."""
    facts = _gathered(job, "facts", bucket)
    looks = _gathered(job, "looks", bucket).drop("bucket")
    partners = pl.concat(pl.read_parquet(job.file("prompts", number)) for number in range(job.buckets))
    facts = facts.join(looks, on=["shard", "place"], how="left").join(partners, on="problem_id", how="left")
    facts = facts.sort("id", "shard", "place")
    for order, each in _group_filters(job):
        alive = facts["fired"] > order
        details = each.details(facts.filter(alive))
        hits = details.is_not_null()
        rows = alive.arg_true().filter(hits)
        if len(rows):
            fired, detail = facts["fired"].scatter(rows, order), facts["detail"].scatter(rows, details.filter(hits))
            facts = facts.with_columns(fired.alias("fired"), detail.alias("detail"))
    facts.select(*KEPT_FACTS, "shard", "place", "fired", "detail").write_parquet(path)


def deal(job: Job, number: int, path: Path) -> None:
    """Lay the rows of a shard out for the tables that they go into: a folder with a file for each table."""
    places = pl.scan_parquet(job.workspace / PLACES).filter(pl.col("shard") == number).drop("shard").collect()
    if number < len(job.trajectories):
        frame = _trajectories(job, number).with_row_index("place").join(places, on="place", maintain_order="left")
        frame = frame.drop("place")
        kept = frame.filter(pl.col("kept_at").is_not_null()).drop("reason", "detail", "dropped_at")
        tables = {
            "kept": kept.drop("rows_at"),
            "dropped": frame.filter(pl.col("dropped_at").is_not_null()).drop("kept_at", "rows_at"),
            "rows": as_rows(kept),
        }
    else:
        frame = read(job.general[number - len(job.trajectories)], ROW, list(ROW)).with_row_index("place")
        tables = {"rows": frame.join(places, on="place", maintain_order="left").select(*ROW, "rows_at")}
    path.mkdir()
    for name, table in tables.items():
        placed = table.filter(pl.col(f"{name}_at").is_not_null()).sort(f"{name}_at").rename({f"{name}_at": AT})
        _write_bins(path / f"{name}.arrow", placed)


def as_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """Trajectories as what a model learns of them, `data.prompts` says how: the columns of `Row`, and their place."""
    parts = [pl.lit(TAGS[0]), _or_null("thinking"), pl.lit(TAGS[1]), _or_null("answer")]
    return frame.select(
        "id",
        "family",
        "language",
        pl.concat_str(pl.lit(BEGIN + USER), "prompt", pl.lit(ASSISTANT)).alias("prompt"),
        pl.concat_str(parts, separator=" ", ignore_nulls=True).alias("completion"),
        pl.lit("trajectory").alias("source"),
        "rows_at",
    )


def _or_null(column: str) -> pl.Expr:
    return pl.when(pl.col(column) != "").then(pl.col(column))


def _write_bins(path: Path, frame: pl.DataFrame) -> None:
    """Write rows that are sorted by their place, a batch for each bin that gets some; the schema says which."""
    bins = frame.select((pl.col(AT) // BIN).alias("bin"), pl.int_range(pl.len()).alias("row"))
    found = bins.group_by("bin").agg(pl.col("row").min().alias("begin"), pl.len().alias("rows")).sort("bin")
    table = _plain(frame)
    schema = table.schema.with_metadata({"bins": json.dumps(found["bin"].to_list())})
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as writer:
        for _, begin, rows in found.iter_rows():
            part = table.slice(begin, rows).combine_chunks()
            writer.write_batch(part.to_batches()[0].replace_schema_metadata(schema.metadata))


def _plain(frame: pl.DataFrame) -> pa.Table:
    """An Arrow table whose texts have 64-bit offsets."""
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def serve(job: Job, table: str, path: Path) -> None:
    """Write one table, a row group a bin, its rows in their places. Its bytes hang on nothing but the rows."""
    files = [job.file("dealt", number) / f"{table}.arrow" for number in range(len(job.shards))]
    dealt = [_Dealt(file) for file in files if file.is_file()]
    schema = dealt[0].schema.remove(dealt[0].schema.get_field_index(AT))
    last = max((number for each in dealt for number in each.bins), default=-1)
    texts = [field.name for field in schema if field.name in UNLIKE]
    with pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=[name for name in schema.names if name not in texts]
    ) as writer:
        for number in range(last + 1):
            batches = [batch for each in dealt for batch in each.batches(number)]
            rows = pa.Table.from_batches(batches).sort_by(AT).drop_columns([AT]).combine_chunks()
            writer.write_table(rows.cast(schema), row_group_size=BIN)


class _Dealt:
    """What one shard gives to one table."""

    def __init__(self, file: Path) -> None:
        with pa.memory_map(str(file)) as source:
            self.schema = pa.ipc.open_file(source).schema
        self.file = file
        self.bins: dict[int, int] = {
            number: place for place, number in enumerate(json.loads(self.schema.metadata[b"bins"]))
        }
        self.schema = self.schema.remove_metadata()

    def batches(self, number: int) -> list[pa.RecordBatch]:
        """The rows for a bin: one batch, or none."""
        if number not in self.bins:
            return []
        with pa.memory_map(str(self.file)) as source:
            return [pa.ipc.open_file(source).get_batch(self.bins[number]).replace_schema_metadata()]


PASSES: Final[Mapping[str, Pass]] = {
    "facts": scan,
    "suspects": suspect,
    "looks": look,
    "prompts": sift,
    "verdicts": judge,
    "dealt": deal,
    "table": serve,
}
"""Each pass by the name of what it writes."""
