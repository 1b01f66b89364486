"""Trajectories of the size and statistics of DeepSeek-R1's second set, with known defects in known rows.

    python -m benchmarks.trajectories                       # build/trajectories-20000/
    python -m benchmarks.trajectories --rows 1200000        # about 20 GB of text
    python -m benchmarks.trajectories --broken              # also build/trajectories-20000-broken/

`shards/*.parquet` holds the rows as they come from sampling: the completion whole, tokens counted, judged by rule
or judge. `evaluation.parquet` holds the problems that nothing may overlap with. `truth.parquet`, apart, says of each
row its `defect` (null for a good one), the `partner` that it copies (a row, or a problem for prompts) and the
`near_miss` that it holds. The same rows and seed give the same bytes, whatever the number of processes.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import prose
from benchmarks.drafts import dice
from benchmarks.planting import World, counts, row, world

BUILD = Path("build")
ROWS = 20_000
SHARD = 5_000  # rows of one file
ROW: Final[dict[str, Any]] = {
    **dict.fromkeys(("id", "problem_id", "key", "family", "language", "prompt", "solution", "verifier"), pl.String),
    **dict.fromkeys(("completion", "finish", "verdict", "reason_detail"), pl.String),
    "tokens": pl.Int32,
    "rounds": pl.Int32,
}
TRUTH: Final = dict.fromkeys(("id", "problem_id", "family", "language", "defect", "partner", "near_miss"), pl.String)


def write_shard(made_of: World, rows: int, shards: int, folder: Path, number: int) -> tuple[pl.DataFrame, int]:
    """Write one shard, its rows in no order; returns the truth about them and the bytes of their text."""
    made = []
    for domain, count in counts(rows).items():
        made += [
            row(made_of, domain, index) for index in range(count * number // shards, count * (number + 1) // shards)
        ]
    dice(made_of.seed, "order", number).shuffle(made)
    frame = pl.DataFrame([each for each, _ in made], schema=ROW)
    frame.write_parquet(folder / "shards" / f"part-{number:05d}.parquet", compression="zstd", row_group_size=1_000)
    size = int(frame.select(pl.sum_horizontal(pl.col("prompt", "completion").str.len_bytes()).sum()).item())
    return pl.DataFrame([each for _, each in made], schema=TRUTH), size


def generate(made_of: World, rows: int, folder: Path, workers: int = 2, shard_rows: int = SHARD) -> None:
    """Write it all into a folder, beside its place first."""
    beside = folder.with_name(f".{folder.name}")
    shutil.rmtree(beside, ignore_errors=True)
    (beside / "shards").mkdir(parents=True)
    shards = -(-rows // shard_rows)
    write = partial(write_shard, made_of, rows, shards, beside)
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            parts = list(pool.map(write, range(shards)))
    else:
        parts = list(map(write, range(shards)))
    truth = pl.concat(part for part, _ in parts)
    truth.write_parquet(beside / "truth.parquet")
    pl.DataFrame(
        [{"id": each.id, "key": each.id, "family": each.domain, "language": each.language, "prompt": each.prompt,
          "solution": each.solution, "verifier": "math"} for each in made_of.evaluation]
    ).write_parquet(beside / "evaluation.parquet")  # fmt: skip
    about = {"rows": rows, "seed": made_of.seed, "text_bytes": sum(size for _, size in parts)}
    (beside / "about.json").write_text(json.dumps(about))
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)


def break_shards(folder: Path) -> None:
    """Copy a set beside it with a shard broken in each of the ways of `BREAKS`; `broken.json` names them."""
    into = folder.with_name(f"{folder.name}-broken")
    shutil.rmtree(into, ignore_errors=True)
    shutil.copytree(folder, into)
    shards = sorted((into / "shards").iterdir())
    if len(shards) <= len(BREAKS):
        raise ValueError(f"{len(shards)} shards are too few for {len(BREAKS)} broken ones and a whole one")
    for shard, damage in zip(shards, BREAKS.values(), strict=False):
        damage(shard)
    named = {name: shard.name for name, shard in zip(BREAKS, shards, strict=False)}
    (into / "broken.json").write_text(json.dumps(named))


def _truncate(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])


def _lose_column(shard: Path) -> None:
    pl.read_parquet(shard).drop("completion").write_parquet(shard)


def _change_type(shard: Path) -> None:
    pl.read_parquet(shard).with_columns(pl.col("tokens").cast(pl.String) + " tokens").write_parquet(shard)


def _set_null(shard: Path) -> None:
    """In every hundredth row, from the eighth on."""
    number = pl.int_range(pl.len())
    changed = pl.when(number % 100 == 7).then(None).otherwise(pl.col("prompt")).alias("prompt")
    pl.read_parquet(shard).with_columns(changed).write_parquet(shard)


def _spoil_utf8(shard: Path) -> None:
    """A byte that no UTF-8 has, in the completion of the eighth row."""
    table = pq.read_table(shard)
    column = table.column("completion").cast(pa.large_binary()).to_pylist()
    column[7] = b"\xff" + column[7]
    spoiled = pa.array(column, pa.large_binary()).view(pa.large_string())
    pq.write_table(table.set_column(table.schema.get_field_index("completion"), "completion", spoiled), shard)


BREAKS: Final[dict[str, Callable[[Path], None]]] = {
    "truncated": _truncate,
    "missing column": _lose_column,
    "wrong type": _change_type,
    "null": _set_null,
    "invalid UTF-8": _spoil_utf8,
}


def main() -> None:
    """Make what the command line asks for; a set that is there already stays."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trajectories", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--broken", action="store_true", help="also a variant with broken shards")
    chosen = parser.parse_args()
    folder = made(chosen.rows, chosen.seed, chosen.workers)
    if chosen.broken:
        break_shards(folder)


def made(rows: int, seed: int = 0, workers: int = 2) -> Path:
    """The folder of a set of so many rows, made where it is not there."""
    folder = BUILD / f"trajectories-{rows}"
    about = folder / "about.json"
    if not about.is_file() or json.loads(about.read_text())["seed"] != seed:
        generate(world(prose.read(), seed), rows, folder, workers)
    return folder


if __name__ == "__main__":
    main()
