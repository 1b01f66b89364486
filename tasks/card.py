"""The card of a fine-tuning set: what is in it, by the paper's Table 5, how it was built, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import polars as pl

from data.lineage import Json
from data.sets import COLUMNS, JSON_LINES, PARQUET, SCHEMA_VERSION


def card(record: Mapping[str, Json], composition: pl.DataFrame, above: Sequence[Mapping[str, Json]]) -> str:
    """The README of an exported set, whose head says to Hugging Face's `datasets` which file to load.

    `record` is the build's, `above` are those of what it was made from.
    """
    lines = [
        "---",
        "configs:",
        "- config_name: default",
        f"  data_files: {PARQUET}",
        f"schema_version: {SCHEMA_VERSION}",
        "---",
        "",
        f"# {record['name']}",
        "",
        f"{composition['samples'][-1]:,} rows, `{record['key']}`, made {record.get('made_at', 'at an unknown time')}.",
        "",
        composition_table(composition),
        "",
        "Tokens are those of the sampled responses, a mean as rounds are.",
        "",
        "## Columns",
        "",
        f"{', '.join(f'`{name}`' for name in COLUMNS)}, in this order in `{PARQUET}` and `{JSON_LINES}`; schema "
        f"version {SCHEMA_VERSION}. `prompt` and `completion` are the text that a model sees, `messages` is the same "
        "in chat form. An `id` is that of the trajectory that a row was made from.",
        "",
        "## Made from",
        "",
        *(f"- {each['name']}, `{each['key']}`" for each in above),
        "",
        "## Settings",
        "",
        "```json",
        json.dumps(record["config"], indent=1, ensure_ascii=False, sort_keys=True),
        "```",
    ]
    return "\n".join(lines) + "\n"


def composition_table(composition: pl.DataFrame) -> str:
    """The paper's Table 5 in Markdown: domain, samples, rounds, tokens, and all of them together."""
    lines = ["| domain | samples | rounds | tokens |", "|---|---:|---:|---:|"]
    for row in composition.iter_rows(named=True):
        tokens = "–" if row["tokens"] is None else f"{row['tokens']:,.1f}"
        lines.append(f"| {row['domain']} | {row['samples']:,} | {row['rounds']:.1f} | {tokens} |")
    return "\n".join(lines)
