"""A runs folder as stages leave it, made of tables that a test gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from data.lineage import RECORD, Table, file_digests, fingerprint, write_json
from data.store import write_table

Make = Callable[..., Table]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def made(runs: Path) -> Make:
    """made(stage, name, tables, parents, config): an artifact that is done, with those tables."""

    def make(
        stage: str,
        name: str,
        tables: Mapping[str, pl.DataFrame],
        parents: Mapping[str, Table] | None = None,
        config: Mapping[str, Any] | None = None,
        summary: Mapping[str, Any] | None = None,
    ) -> Table:
        above = parents or {}
        settings = {"config": dict(config or {})}
        digits = fingerprint(stage, 1, settings, {key: [each.fingerprint] for key, each in above.items()} | {"n": name})
        artifact = Table(name, stage, digits, runs)
        artifact.folder.mkdir(parents=True)
        for table, frame in tables.items():
            write_table(artifact.folder / f"{table}.parquet", frame)
        record = {
            "key": artifact.key, "name": name, "stage": stage, "version": 1, "fingerprint": digits,
            "config": settings, "summary": dict(summary or {}), "files": file_digests(artifact.folder, ".resume"),
            "parents": [{"argument": key, "name": each.name, "key": each.key} for key, each in above.items()],
            "wall_s": 1.5, "made_at": "2026-01-02T03:04:05Z", "made_on": {"device": "cpu"},
        }  # fmt: skip
        write_json(artifact.folder / RECORD, record)
        return artifact

    return make


@pytest.fixture
def report(runs: Path) -> Callable[[str, Sequence[Table]], None]:
    """report(recipe, artifacts): what the last run of a recipe leaves."""

    def make(recipe: str, artifacts: Sequence[Table]) -> None:
        (runs / recipe).mkdir(parents=True)
        stages = [{"name": each.name, "stage": each.stage, "fingerprint": each.fingerprint} for each in artifacts]
        write_json(runs / recipe / "recipe.json", {})
        write_json(runs / recipe / "report.json", {"stages": stages})

    return make
