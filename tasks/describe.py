"""What a stage did, in the Markdown that MLflow shows on its page: a sentence, figures, and links both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from data.lineage import Json

EXAMPLES = 2
"""Rows shown of each reason for which a curation dropped some."""


@dataclass(frozen=True, slots=True)
class Link:
    """A page of the same store: its name, and the ids of its experiment and run."""

    name: str
    experiment: str
    run: str

    def __str__(self) -> str:
        return f"[{self.name}](#/experiments/{self.experiment}/runs/{self.run})"


def describe(
    record: Mapping[str, Json], sentence: str, parents: Sequence[Link], children: Sequence[Link], more: str = ""
) -> str:
    """Say what a stage did. `record` is that of its artifact; `more` is Markdown to put at the end."""
    lines = [
        f"{sentence} From {_listed(parents)}; used by {_listed(children)}.",
        "",
        f"`{record['key']}`, made in {record['wall_s']:.1f} s on {record['made_on']['device']}",
        "",
        figures_table(record["summary"]),
    ]
    return "\n".join([*lines, "", more]) if more else "\n".join(lines)


def waterfall(counts: pl.DataFrame, dropped: pl.DataFrame) -> str:
    """The rows that came in, those that each reason took, and those kept, with examples of each reason."""
    lines = ["| rows | | examples |", "|---:|---|---|"]
    for row in counts.iter_rows(named=True):
        of_reason = dropped.filter(pl.col("reason") == row["reason"])
        shown = of_reason.unique("problem_id", maintain_order=True).head(EXAMPLES).iter_rows(named=True)
        examples = "; ".join(f"`{each['id']}` {_cell(each['detail'])}" for each in shown)
        lines.append(f"| {row['rows']:,} | {row['reason']} | {examples} |")
    return "\n".join(lines)


def figures_table(summary: Mapping[str, Json]) -> str:
    """The figures of a stage, one a row; what is several figures is left out."""
    rows = [f"| {key} | {_text(value)} |" for key, value in summary.items() if not isinstance(value, dict | list)]
    return "\n".join(["| | |", "|---|---|", *rows])


def _listed(links: Sequence[Link]) -> str:
    return ", ".join(str(link) for link in links) or "nothing"


def _text(value: Json) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(value: str | None) -> str:
    return (value or "").replace("|", "\\|").replace("\n", " ")[:80]
