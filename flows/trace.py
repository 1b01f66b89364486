"""Follow what was made up to the base: rows, datasets and checkpoints by id."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from data.lineage import METRICS, RECORD, Artifact, Json, Policy, ancestors, read_json
from data.store import read_table

TABLES = ("trajectories", "kept", "dropped", "rows", "problems", "general")


def find(identity: str, runs: Path) -> Artifact:
    """Find an artifact by `recipe/name` or by its key (or the start of one). Raises ValueError with what there is."""
    recipe, _, name = identity.partition("/")
    report = runs / recipe / "report.json"
    if name and report.is_file():
        stages = {entry["name"]: entry for entry in read_json(report)["stages"]}
        if name not in stages:
            raise ValueError(f"{recipe} has no stage {name!r}; it has {', '.join(sorted(stages))}")
        entry = stages[name]
        return Policy(name, entry["stage"], entry["fingerprint"], runs)
    keys = sorted(folder.parent.name for folder in runs.glob(f"*-*/{RECORD}"))
    matching = [key for key in keys if key.startswith(recipe)]
    if len(matching) != 1:
        found = f"{len(matching)} artifacts begin so" if matching else "no such artifact"
        raise ValueError(f"{identity!r}: {found} under {runs}; give recipe/name, such as micro/r1, or a whole key")
    stage, _, digits = matching[0].rpartition("-")
    return Policy(read_json(runs / matching[0] / RECORD)["name"], stage, digits, runs)


def lines(identity: str, runs: Path) -> Iterator[str]:
    """Tell the story of an artifact, or of one row of it, up to the base."""
    head, _, rest = identity.partition("/")
    if (runs / head / "report.json").is_file():
        name, _, row = rest.partition("/")
        artifact = find(f"{head}/{name}", runs)
    else:
        artifact, row = find(head, runs), rest
    if row:
        yield from _row(artifact, row)
    for depth, record in ancestors(artifact.key, runs):
        figures = {key: value for key, value in record["summary"].items() if isinstance(value, int | float)}
        told = "  ".join(f"{key} {value:.4g}" for key, value in list(figures.items())[:6])
        yield f"{'  ' * depth}{record['name']}  {record['key']}  {told}"


def _row(artifact: Artifact, row: str) -> Iterator[str]:
    """Tell where a row stands in an artifact, then in the parents that it came through."""
    found = False
    for depth, record in ancestors(artifact.key, artifact.runs):
        for table in TABLES:
            path = artifact.runs / record["key"] / f"{table}.parquet"
            if not path.is_file():
                continue
            for match in read_table(path).filter(pl.col("id").is_in([row, _problem_of(row)])).iter_rows(named=True):
                found = True
                yield f"{'  ' * depth}{record['key']}/{table}.parquet"
                yield from (
                    f"{'  ' * depth}  {key}: {_text(value)}" for key, value in match.items() if value is not None
                )
    if not found:
        raise ValueError(f"no row {row!r} in {artifact.key} or in what it was made from")


def _problem_of(row: str) -> str:
    """Take the problem's id out of a trajectory's: `[step/]<family>/<number>/<sample>`."""
    parts = row.split("/")
    return "/".join(parts[-3:-1]) if len(parts) >= 3 else row


def _text(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def write_checkpoint(artifact: Artifact, folder: Path) -> Path:
    """Copy a checkpoint into a new folder, with its record and the metrics of its training."""
    policy = Policy(artifact.name, artifact.stage, artifact.fingerprint, artifact.runs)
    if not policy.checkpoint.is_dir():
        raise ValueError(f"{artifact.key} holds no checkpoint")
    if folder.exists():
        raise ValueError(f"{folder} exists already; name a folder that does not")
    beside = folder.with_name(folder.name + ".tmp")
    shutil.copytree(policy.checkpoint, beside)
    for told in (RECORD, METRICS):
        if (artifact.folder / told).is_file():
            shutil.copyfile(artifact.folder / told, beside / told)
    beside.rename(folder)
    return folder
