"""Take a model that exists into the pipeline, by its digest."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol

from data.lineage import METRICS, RECORD, Policy
from model.checkpoint import try_out
from tasks.collect import digest_of
from tasks.stage import Run, Summary, stage


class Source(Protocol):
    """A folder and the digest that it must have; only the digest bears identity."""

    @property
    def path(self) -> Path | None:
        """The folder."""

    @property
    def digest(self) -> str:
        """SHA-256 over its files, as `digest_of` takes it."""
        ...


@stage(version=2, makes=Policy)
def adopt(run: Run, source: Source) -> Summary:
    """Copy a checkpoint folder; how it was made, where that is on record, comes along in `origin/`."""
    assert source.path is not None
    if digest_of(source.path) != source.digest:
        raise ValueError(f"{source.path} was changed while it was read")
    shutil.copytree(source.path, run.folder / "policy")
    try_out(run.folder / "policy")
    for told in (RECORD, METRICS):
        if (run.folder / "policy" / told).is_file():
            (run.folder / "origin").mkdir(exist_ok=True)
            (run.folder / "policy" / told).rename(run.folder / "origin" / told)
    return {
        "digest": source.digest,
        "bytes": sum(p.stat().st_size for p in source.path.rglob("*") if p.is_file()),
    }
