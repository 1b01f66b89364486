"""`r1 export`: a checkpoint as a Hugging Face folder, or a fine-tuning set that `datasets` loads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.lineage import METRICS, RECORD, Artifact, Policy, check, read_record
from data.sets import composition, write_set
from tasks.card import card


def export(artifact: Artifact, folder: Path) -> Path:
    """Write a checkpoint or a set into a folder that does not exist yet. Raises ValueError for anything else."""
    if (artifact.folder / "policy").is_dir():
        return write_checkpoint(Policy(artifact.name, artifact.stage, artifact.fingerprint, artifact.runs), folder)
    if (artifact.folder / "rows.parquet").is_file() and (artifact.folder / "kept.parquet").is_file():
        return write_rows(artifact, folder)
    raise ValueError(f"{artifact.key} is neither a checkpoint nor a fine-tuning set")


def write_checkpoint(policy: Policy, folder: Path) -> Path:
    """Copy a checkpoint, with its record and the metrics of its training."""
    with _new(folder) as beside:
        shutil.copytree(policy.checkpoint, beside, dirs_exist_ok=True)
        for told in (RECORD, METRICS):
            if (policy.folder / told).is_file():
                shutil.copyfile(policy.folder / told, beside / told)
    return folder


def write_rows(built: Artifact, folder: Path) -> Path:
    """Write a set's rows as Parquet and JSON lines in chat form, with its card and its record."""
    check(built)
    record = built.record()
    above = [read_record(built.runs / parent["key"]) for parent in record["parents"]]
    with _new(folder) as beside:
        write_set(built.folder / "rows.parquet", beside)
        (beside / "README.md").write_text(card(record, composition(built.folder), above), encoding="utf-8")
        shutil.copyfile(built.folder / RECORD, beside / RECORD)
    return folder


@contextmanager
def _new(folder: Path) -> Iterator[Path]:
    """A folder beside the one to be made, which it becomes when it is filled."""
    if folder.exists():
        raise ValueError(f"{folder} exists already; name a folder that does not")
    beside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)  # left by an export that was stopped
    beside.mkdir(parents=True)
    try:
        yield beside
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
