"""What a threshold does: builds that differ in one setting -> how many rows each keeps, and how good they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import polars as pl
from pydantic import Field

from data.lineage import PLACE, Report, Settings, Table
from data.quality import quality, read_truth
from data.store import write_table
from tasks.stage import Run, Summary, stage

CURVE: Final = "curve.parquet"
PICTURE: Final = "curve.svg"
SHOWN: Final = ("kept", "quality")


class CurveConfig(Settings):
    """Which setting was swept, and what is known of the rows."""

    setting: str = Field(description="as in repetition.max_ngram_share")
    truth: Path | None = Field(
        None,
        description="JSONL or Parquet: id, and defect, null where there is none",
        json_schema_extra=PLACE,
    )
    digest: str = Field("", description="SHA-256 of the file at `truth`")


@stage(version=1, makes=Report)
def curve(run: Run, builds: Mapping[str, Table], config: CurveConfig) -> Summary:
    """Compare builds by the value of one setting: rows kept, and their judged and planted quality."""
    from tasks import figures

    truth = read_truth(config.truth) if config.truth else None
    rows = [{config.setting: value} | quality(build.folder, truth) for value, build in builds.items()]
    frame = pl.DataFrame(rows, infer_schema_length=None)
    write_table(run.folder / CURVE, frame)
    drawn = figures.curve(frame, config.setting)
    (run.folder / PICTURE).write_text(drawn, encoding="utf-8")
    return {f"{name}/{value}": row[name] for value, row in zip(builds, rows, strict=True) for name in SHOWN}
