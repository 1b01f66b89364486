"""Trajectories -> kept rows and dropped rows with reasons.

Cold start (DeepSeek-R1 section 2.3.1 of v1, supplement of v2): right and readable trajectories of R1-Zero,
brought into one pattern: thinking in the question's language, then a summary. Rejection sampling (section
2.3.3 of v1, Table 5 of v2): right trajectories of the reasoning checkpoint, without mixed language, long
paragraphs, code blocks or repetition, joined with non-reasoning rows, 600 to 200.
"""

from __future__ import annotations

from dataclasses import asdict

from pydantic import Field

from data.build import BuildConfig, Input, build
from data.lineage import PLACE, RESUME, Table
from tasks.collect import problems_of
from tasks.stage import Run, Summary, stage


class CurateConfig(BuildConfig):
    """One build of a fine-tuning set."""

    cluster: str = Field(
        "",
        description="Ray cluster that does the passes, as in host:6379; empty: this machine",
        json_schema_extra=PLACE,
    )


@stage(version=5, makes=Table)
def curate(run: Run, trajectories: Table, general: Table, heldout: Table, config: CurateConfig) -> Summary:
    """Build a fine-tuning set: `rows`, `kept`, `dropped` and `waterfall` as Parquet.

    `heldout` is the set of evaluation problems; rows that overlap with it are removed.
    """
    given = Input(
        trajectories.folder / "trajectories.parquet",
        general.folder / "rows.parquet",
        [text for problem in problems_of(heldout) for text in (problem.prompt, problem.solution)],
    )
    workspace = run.folder / RESUME / "build"
    built = build(given, config, run.folder, workspace, cluster=config.cluster, on_progress=run.progress)
    return asdict(built)
