"""The passes of a build: each is a function from one shard or one bucket of problems to one file.

    inspect   shard  -> broken     rows that cannot be read, where these are set aside
    scan      shard  -> facts      the row filters' reasons; what group filters must know of each row
    suspect   bucket -> suspects   rows whose texts a group filter must see once more
    look      shard  -> looks      what it sees there
    sift      bucket -> prompts    near duplicates among prompts with the same numerals
    judge     bucket -> verdicts   every row's reason, null for those that stay
              ...                  which of these stay under a quota, and where (`data.places`)
    deal      shard  -> dealt      rows of each table to come, by the bin that they will stand in
    serve     table  -> a Parquet file, bin after bin

A pass reads the input and files of earlier passes only, writes beside its file and renames, and does nothing
where its file exists already: so it runs anywhere, twice, in any order within its kind, and goes on where a
killed build stopped. No pass holds more than a shard, a bucket or a bin.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl
import polars.selectors as cs
import pyarrow as pa
import pyarrow.parquet as pq

from data import job as jobs
from data import places
from data.filters import Contaminated, GroupFilter, Repetition, with_language
from data.filters.kinds import KEPT_FACTS
from data.filters.prompts import PROMPT_FACTS
from data.job import ROW, TRAJECTORY, Job, Pass, context, general
from data.language import consistency
from data.prompts import ASSISTANT, BEGIN, TAGS, USER
from data.scan import PARTS, measured, taken_apart
from data.shards import faults
from data.world.graded import GRADED
from data.world.rewrite import summary, translate

BIN: Final = 4096  # rows of a row group of what comes out
TABLES: Final = ("kept", "dropped", "rows")
UNLIKE: Final = frozenset(("id", "prompt", "completion", "thinking", "answer"))  # columns without a dictionary
AT: Final = "at"


def inspect(job: Job, number: int, path: Path) -> None:
    """Find the rows of a shard that are broken: (place, what), the place null where all are."""
    shard = job.shards[number]
    found = faults(shard, TRAJECTORY) if number < len(job.trajectories) else faults(shard, ROW, list(ROW))
    found.write_parquet(path)


def _trajectories(job: Job, number: int, only: pl.Series | None = None) -> Iterator[pl.DataFrame]:
    frames = jobs.trajectories(job, number, only)
    return map(rewritten, frames) if job.rewrite else frames


def _measured(job: Job, frame: pl.DataFrame) -> pl.DataFrame:
    run = next((each.ngram for each in job.filters if isinstance(each, Contaminated)), 10)
    gram = next((each.ngram for each in job.filters if isinstance(each, Repetition)), 8)
    return measured(frame, tuple(context(job.workspace).evaluation), run, gram)


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
    facts = pl.concat(_scanned(job, rows) for rows in _trajectories(job, number))
    facts.with_columns(
        pl.lit(number, pl.Int32).alias("shard"),
        (pl.col("problem_id").hash(seed=0) % job.buckets).cast(pl.Int32).alias("bucket"),
    ).write_parquet(path, compression="lz4")


def _scanned(job: Job, alive: pl.DataFrame) -> pl.DataFrame:
    """What filters fire on some rows, and the facts of them."""
    facts = alive.select("place", *KEPT_FACTS)
    fired = alive.select("place", pl.lit(job.kept, pl.Int32).alias("fired"), pl.lit(None, pl.String).alias("detail"))
    for order, each in enumerate(job.filters):
        if job.many and "walk.lines" not in alive.columns and (isinstance(each, GroupFilter) or each.measured):
            alive = _measured(job, alive)
        if isinstance(each, GroupFilter):
            columns = pl.DataFrame([alive["place"], *each.facts(alive)])
            facts = facts.join(columns, on="place", how="left", maintain_order="left")
            continue
        details = each.details(alive, context(job.workspace))
        hits = details.is_not_null()
        found = pl.DataFrame([alive["place"].filter(hits), details.filter(hits)])
        found = found.with_columns(pl.lit(order, pl.Int32).alias("fired"))
        fired = fired.update(found, on="place")
        alive = alive.filter(~hits)
    return facts.join(fired, on="place", maintain_order="left")


def _gathered(job: Job, name: str, bucket: int) -> pl.DataFrame:
    """What a pass wrote of the rows of a bucket; no facts of prompts, which only `sift` compares."""
    files = [job.file(name, number) for number in range(len(job.trajectories))]
    rows = pl.scan_parquet(files, glob=False).filter(pl.col("bucket") == bucket)
    return rows.select(pl.exclude(PROMPT_FACTS)).collect()


def suspect(job: Job, bucket: int, path: Path) -> None:
    """Name the rows of a bucket whose texts group filters must see again."""
    facts = _gathered(job, "facts", bucket)
    marks = pl.repeat(False, len(facts), dtype=pl.Boolean, eager=True)
    for order, each in job.groups():
        alive = facts["fired"] > order
        suspects = each.suspects(facts.filter(alive))
        if suspects is not None:
            rows = alive.arg_true().filter(suspects)
            marks = marks.scatter(rows, True) if len(rows) else marks
    facts.filter(marks).select("shard", "place").write_parquet(path)


def look(job: Job, number: int, path: Path) -> None:
    """See the suspects of a shard again."""
    files = [job.file("suspects", bucket) for bucket in range(job.buckets)]
    again = pl.concat([pl.read_parquet(file).filter(pl.col("shard") == number) for file in files])["place"]
    if again.is_empty():
        frames = iter([pl.DataFrame(schema=dict.fromkeys(TRAJECTORY, pl.String) | {"place": pl.UInt32})])
    else:
        frames = _trajectories(job, number, again)
    pl.concat(_looked(job, number, rows) for rows in frames).write_parquet(path, compression="lz4")


def _looked(job: Job, number: int, frame: pl.DataFrame) -> pl.DataFrame:
    """What group filters see in some rows of a shard."""
    return pl.DataFrame(
        [
            pl.Series("shard", [number], pl.Int32).new_from_index(0, len(frame)),
            frame["place"],
            (frame["problem_id"].hash(seed=0) % job.buckets).cast(pl.Int32).alias("bucket"),
            *(column for _, each in job.groups() for column in each.looks(frame, job.many)),
        ]
    )


def sift(job: Job, bucket: int, path: Path) -> None:
    """Find near duplicates among the prompts that share their numerals, of all problems with a row left."""
    across = job.across()
    if across is None:
        pl.DataFrame(schema={"problem_id": pl.String, "partner": pl.String}).write_parquet(path)
        return
    order, each = across
    left = (pl.col("fired") > order) & (pl.col("prompt_numerals") % job.buckets == bucket)
    files = [job.file("facts", number) for number in range(len(job.trajectories))]
    prompts = pl.scan_parquet(files, glob=False).filter(left).select("problem_id", *PROMPT_FACTS).collect()
    each.alike(prompts.unique("problem_id", keep="first")).write_parquet(path)


def judge(job: Job, bucket: int, path: Path) -> None:
    """Give every row of a bucket its reason: the first filter that fires on what the earlier ones left."""
    facts = _gathered(job, "facts", bucket)
    looks = _gathered(job, "looks", bucket).drop("bucket")
    partners = pl.concat(pl.read_parquet(job.file("prompts", number)) for number in range(job.buckets))
    facts = facts.join(looks, on=["shard", "place"], how="left").join(partners, on="problem_id", how="left")
    facts = facts.sort("id", "shard", "place")
    for order, each in job.groups():
        alive = facts["fired"] > order
        details = each.details(facts.filter(alive))
        hits = details.is_not_null()
        rows = alive.arg_true().filter(hits)
        if len(rows):
            fired, detail = facts["fired"].scatter(rows, order), facts["detail"].scatter(rows, details.filter(hits))
            facts = facts.with_columns(fired.alias("fired"), detail.alias("detail"))
    drawn = job.mixture.drawn(facts, facts["fired"] == job.kept)
    columns = [*KEPT_FACTS, "shard", "place", "fired", "detail"]
    facts.with_columns(drawn).select(*columns, "domain", "draw").write_parquet(path, row_group_size=20_000)


def deal(job: Job, number: int, path: Path) -> None:
    """Lay the rows of a shard out for the tables that they go into: a folder with a file for each table. The parts of a
    completion are left to `serve`, since they would double what is written here."""
    stand = places.placed(job, number)
    if number < len(job.trajectories):
        parts = () if job.rewrite else set(PARTS) - set(pq.read_schema(job.trajectories[number].file).names)
        laid = [_laid_out(rows, stand, parts) for rows in _trajectories(job, number)]
        tables = {name: pl.concat(each[name] for each in laid) for name in laid[0]}
    else:
        frame = general(job, number)
        tables = {"rows": frame.join(stand, on="place", maintain_order="left").select(*ROW, "rows_at")}
    path.mkdir()
    for name, table in tables.items():
        placed = table.filter(pl.col(f"{name}_at").is_not_null()).sort(f"{name}_at").rename({f"{name}_at": AT})
        _write_bins(path / f"{name}.arrow", placed)


def _laid_out(rows: pl.DataFrame, stand: pl.DataFrame, parts: Collection[str]) -> dict[str, pl.DataFrame]:
    """Some rows of a shard for the tables that they go into, the trajectories without some `parts`."""
    frame = rows.join(stand, on="place", maintain_order="left").drop("place")
    kept = frame.filter(pl.col("kept_at").is_not_null()).drop("reason", "detail", "dropped_at")
    return {
        "kept": kept.drop("rows_at", *parts),
        "dropped": frame.filter(pl.col("dropped_at").is_not_null()).drop("kept_at", "rows_at", *parts),
        "rows": as_rows(kept),
    }


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
    schema = _plain(_ordered([dealt[0].schema.empty_table()], table)).schema
    last = max((number for each in dealt for number in each.bins), default=-1)
    texts = [field.name for field in schema if field.name in UNLIKE]
    with pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=[name for name in schema.names if name not in texts]
    ) as writer:
        for number in range(last + 1):
            alike: dict[pa.Schema, list[pa.RecordBatch]] = {}
            for batch in (batch for each in dealt for batch in each.batches(number)):
                alike.setdefault(batch.schema, []).append(batch)
            rows = _plain(_ordered([pa.Table.from_batches(batches) for batches in alike.values()], table))
            writer.write_table(rows.combine_chunks().cast(schema), row_group_size=BIN)


def _ordered(parts: Sequence[pa.Table], table: str) -> pl.DataFrame:
    """Rows for a table in their places; completions taken apart, why a row was dropped in the last columns."""
    frames: list[pl.DataFrame] = []
    why = ("reason", "detail")
    for part in parts:
        frame = pl.from_arrow(part)
        assert isinstance(frame, pl.DataFrame)
        whole = frame if table == "rows" else taken_apart(frame)
        ordered = whole.select(pl.exclude(why), cs.by_name(why, require_all=False))
        frames.append(ordered.select(frames[0].columns) if frames else ordered)
    return pl.concat(frames).sort(AT).drop(AT)


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
    "broken": inspect,
    "facts": scan,
    "suspects": suspect,
    "looks": look,
    "prompts": sift,
    "verdicts": judge,
    "names": places.count,
    "ranks": places.rank,
    "lines": places.line_up,
    "dealt": deal,
    "table": serve,
}
"""Each pass by the name of what it writes."""


def make(job: Job, name: str, item: int | str) -> None:
    """Run a pass on one shard, bucket or table, unless its file is there."""
    jobs.made(job, name, item, PASSES[name])
