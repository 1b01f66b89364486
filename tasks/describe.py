"""What a stage did, as MLflow shows it: settings, metrics, and in Markdown a sentence, figures and links both ways."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.lineage import Json
from data.waterfall import NO_DOMAINS, breakdown, by_reason, examples

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


def waterfall(folder: Path, domains: Mapping[str, Sequence[str]] = NO_DOMAINS) -> str:
    """The rows of a build by reason, with domains and languages, and examples with what the rule found."""
    counts = by_reason(breakdown(folder, domains))
    names = [name for name in counts.columns if name not in ("reason", "rows", "share", "tokens")]
    lines = [
        f"| | rows | share | tokens | {' | '.join(names)} |",
        f"|---|{'---:|' * (3 + len(names))}",
        *(_fall(row, names) for row in counts.iter_rows(named=True)),
        "",
        *(f"- {each['reason']}: `{each['id']}` {_cell(each['detail'])}"
          for each in examples(folder, EXAMPLES).iter_rows(named=True)),
    ]  # fmt: skip
    return "\n".join(lines)


def _fall(row: Mapping[str, Json], names: Sequence[str]) -> str:
    parts = " | ".join(f"{row[name]:,}" for name in names)
    return f"| {row['reason']} | {row['rows']:,} | {100 * row['share']:.1f} % | {row['tokens']:,} | {parts} |"


def figures_table(summary: Mapping[str, Json]) -> str:
    """The figures of a stage, one a row; what is several figures is left out."""
    rows = [f"| {key} | {_text(value)} |" for key, value in summary.items() if not isinstance(value, dict | list)]
    return "\n".join(["| | |", "|---|---|", *rows])


def metric_name(name: str) -> str:
    """Spell a metric the way MLflow allows: it refuses `@` and `=`."""
    return name.replace("@", "_at_").replace("=", "_")


def flatten(config: Mapping[str, Json], prefix: str = "") -> dict[str, str]:
    """Flatten a nested configuration into `group.key -> text`."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def assessments(row: Mapping[str, Json]) -> dict[str, float | str]:
    """Verdict, total reward and each part of it, as far as a trajectory has them."""
    parts = {name.removeprefix("reward_"): row[name] for name in row if name.startswith("reward_")}
    found = {"verdict": row["verdict"], "reward": row["reward"], "advantage": row["advantage"], **parts}
    return {name: value for name, value in found.items() if value is not None}


def _listed(links: Sequence[Link]) -> str:
    return ", ".join(str(link) for link in links) or "nothing"


def _text(value: Json) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(value: str | None) -> str:
    return (value or "").replace("|", "\\|").replace("\n", " ")[:80]
