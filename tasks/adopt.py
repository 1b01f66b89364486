"""Take a model that exists into the pipeline, by its digest."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol

from data.lineage import METRICS, RECORD, Policy
from model import gguf
from model.checkpoint import try_out
from model.tokenizer import Tokenizer
from tasks import roles
from tasks.collect import digest_of
from tasks.stage import Run, Summary, stage


class Source(Protocol):
    """A folder or a file, and the digest that it must have; only the digest bears identity."""

    @property
    def path(self) -> Path | None:
        """Where it lies."""

    @property
    def digest(self) -> str:
        """SHA-256 over it, as `digest_of` takes it."""
        ...


@stage(version=2, makes=Policy)
def adopt(run: Run, source: Source) -> Summary:
    """Copy a checkpoint folder; how it was made, where that is on record, comes along in `origin/`."""
    assert source.path is not None
    if digest_of(source.path) != source.digest:
        raise ValueError(f"{source.path} was changed while it was read")
    try:
        try_out(source.path)
    except ValueError as error:
        raise ValueError(f"{run.name}, from {source.path}: {error}") from None
    shutil.copytree(source.path, run.folder / "policy")
    for told in (RECORD, METRICS):
        if (run.folder / "policy" / told).is_file():
            (run.folder / "origin").mkdir(exist_ok=True)
            (run.folder / "policy" / told).rename(run.folder / "origin" / told)
    return {
        "digest": source.digest,
        "bytes": sum(p.stat().st_size for p in source.path.rglob("*") if p.is_file()),
    }


@stage(version=1, makes=Policy)
def convert(run: Run, source: Source) -> Summary:
    """Make a GGUF file into a checkpoint whose weights train."""
    assert source.path is not None
    if digest_of(source.path) != source.digest:
        raise ValueError(f"{source.path} was changed while it was read")
    folder = run.folder / "policy"
    gguf.convert(source.path, folder)
    roles.check(Tokenizer.load(folder))
    try_out(folder)
    return {
        "digest": source.digest,
        "bytes": source.path.stat().st_size,
        "bytes_converted": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
    }
