"""The cards of a fine-tuning set and of a checkpoint: what it is, how it was made, from what, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import polars as pl

from data.lineage import Json
from data.prompts import Template
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
        *_lineage(record, above),
    ]
    return "\n".join(lines) + "\n"


def composition_table(composition: pl.DataFrame) -> str:
    """The paper's Table 5 in Markdown: domain, samples, rounds, tokens, and all of them together."""
    lines = ["| domain | samples | rounds | tokens |", "|---|---:|---:|---:|"]
    for row in composition.iter_rows(named=True):
        tokens = "–" if row["tokens"] is None else f"{row['tokens']:,.1f}"
        lines.append(f"| {row['domain']} | {row['samples']:,} | {row['rounds']:.1f} | {tokens} |")
    return "\n".join(lines)


ASKED = {
    "zero": "the plain-text template of R1-Zero: thinking in `<think>` tags, then the answer in `<answer>` tags",
    "chat": "the chat template: thinking in `<think>` tags, then a summary",
}


def model_card(
    record: Mapping[str, Json],
    template: Template,
    figures: Mapping[str, Json],
    above: Sequence[Mapping[str, Json]],
    recipe: Mapping[str, Json],
) -> str:
    """The README of an exported checkpoint, with the figures of its evaluation and the records `above` it."""
    head = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    lines = [
        "---",
        *(f"{key}: {value}" for key, value in head.items()),
        "---",
        "",
        f"# {record['name']}",
        "",
        f"`{record['key']}`, made {record.get('made_at', 'at an unknown time')} by `{record['stage']}`. Asked by "
        f"{ASKED[template]}. Its tokenizer has that template, its generation config temperature 0.6 and top-p 0.95.",
        "",
        *(["## Figures", "", figures_table(figures), ""] if figures else []),
        *_lineage(record, above),
        "",
        *(["## Recipe", "", *_block(recipe)] if recipe else []),
    ]
    return "\n".join(lines).rstrip() + "\n"


def figures_table(figures: Mapping[str, Json]) -> str:
    """Figures with their 95 % intervals in Markdown; a figure that was not measured is left out."""
    rows = [
        f"| {name} | {each['value']:.3f} | {each['low']:.3f} to {each['high']:.3f} |"
        for name, each in figures.items()
        if isinstance(each, dict) and {"value", "low", "high"} <= each.keys()
    ]
    return "\n".join(["| figure | value | 95 % interval |", "|---|---:|---:|", *rows])


def _lineage(record: Mapping[str, Json], above: Sequence[Mapping[str, Json]]) -> list[str]:
    """What something was made from, and the settings that it was made by."""
    return [
        "## Made from",
        "",
        *(f"- {each['name']}, `{each['key']}`" for each in above),
        "",
        "## Settings",
        "",
        *_block(record["config"]),
    ]


def _block(value: Json) -> list[str]:
    return ["```json", json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True), "```"]
