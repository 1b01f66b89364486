"""A set that is exported loads alike with the readers that people use."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from data.lineage import Table
from data.prompts import ASSISTANT, BEGIN, END, USER, messages, render
from data.sets import COLUMNS, SCHEMA_VERSION, composition
from flows.export import export
from tests.flows.conftest import Make

TWICE = f"{BEGIN}{USER}你好{ASSISTANT}hello{END}{USER}and, again?{ASSISTANT}"
ROWS = pl.DataFrame(
    {
        "id": ["p/0", "p/1", "g/0"],
        "family": ["chain", "chain", "helpful"],
        "language": ["en", "zh", "en"],
        "prompt": [render("1 + 1?\nsay", "chat"), render("一加一?", "chat"), TWICE],
        "completion": ["<think> two </think> 2", "<think> 二 </think> 2", "<think> </think> hi"],
        "source": ["trajectory", "trajectory", "writers"],
    }
)
KEPT = pl.DataFrame({"id": ["p/0", "p/1"], "tokens": [10, 21]})
CHAT = [
    [{"role": "user", "content": "1 + 1?\nsay"}, {"role": "assistant", "content": "<think> two </think> 2"}],
    [{"role": "user", "content": "一加一?"}, {"role": "assistant", "content": "<think> 二 </think> 2"}],
    [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "hello"},
     {"role": "user", "content": "and, again?"}, {"role": "assistant", "content": "<think> </think> hi"}],
]  # fmt: skip
EXPECTED = [row | {"messages": chat} for row, chat in zip(ROWS.to_dicts(), CHAT, strict=True)]


@pytest.fixture
def built(made: Make) -> Table:
    samples = made("generate", "samples", {"trajectories": KEPT})
    return made("curate", "the_rows", {"rows": ROWS, "kept": KEPT}, {"trajectories": samples}, {"max_rows": 3})


@pytest.fixture
def exported(built: Table, tmp_path: Path) -> Path:
    return export(built, tmp_path / "mine" / "set")


@pytest.mark.parametrize("kind", ["folder", "json"])
def test_datasets_loads_it(exported: Path, kind: str, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    if kind == "folder":
        loaded = load_dataset(str(exported), split="train", cache_dir=cache)
    else:
        loaded = load_dataset("json", data_files=str(exported / "rows.jsonl"), split="train", cache_dir=cache)
    assert tuple(loaded.column_names) == COLUMNS
    assert [{name: row[name] for name in COLUMNS} for row in loaded] == [
        {name: row[name] for name in COLUMNS} for row in EXPECTED
    ]


def test_polars_loads_it(exported: Path) -> None:
    table, lines = pl.read_parquet(exported / "rows.parquet"), pl.read_ndjson(exported / "rows.jsonl")
    assert tuple(table.columns) == tuple(lines.columns) == COLUMNS
    assert table.to_dicts() == lines.to_dicts() == EXPECTED
    assert table.schema == lines.schema


def test_duckdb_loads_it(exported: Path) -> None:
    for file in ("rows.parquet", "rows.jsonl"):
        found = duckdb.sql(f"SELECT * FROM '{exported / file}'")
        assert tuple(found.columns) == COLUMNS
        assert [dict(zip(COLUMNS, row, strict=True)) for row in found.fetchall()] == EXPECTED


def test_both_files_have_one_schema_version(exported: Path) -> None:
    assert pq.read_schema(exported / "rows.parquet").metadata[b"r1.schema_version"] == str(SCHEMA_VERSION).encode()
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert f"\nschema_version: {SCHEMA_VERSION}\n---\n" in card


def test_the_card_has_the_papers_table_and_the_settings(exported: Path, built: Table) -> None:
    assert composition(built.folder).rows() == [
        ("chain", 2, 1.0, 15.5),
        ("helpful", 1, 2.0, None),
        ("total", 3, 4 / 3, 15.5),
    ]
    assert composition(built.folder, {"all": ["chain", "helpful"]}).rows()[0] == ("all", 3, 4 / 3, 15.5)
    card = (exported / "README.md").read_text(encoding="utf-8")
    for line in (
        "| domain | samples | rounds | tokens |",
        "| chain | 2 | 1.0 | 15.5 |",
        "| helpful | 1 | 2.0 | – |",
        "| total | 3 | 1.3 | 15.5 |",
        '  "max_rows": 3',
        f"3 rows, `{built.key}`, made 2026-01-02T03:04:05Z.",
    ):
        assert f"\n{line}\n" in card
    assert json.loads((exported / "record.json").read_text())["key"] == built.key


def test_what_is_no_set_or_has_a_changed_file_is_refused_and_nothing_is_left(
    built: Table, made: Make, tmp_path: Path
) -> None:
    samples = made("generate", "other", {"trajectories": KEPT})
    with pytest.raises(ValueError, match=rf"^{samples.key} is neither a checkpoint nor a fine-tuning set$"):
        export(samples, tmp_path / "set")
    export(built, tmp_path / "set")
    with pytest.raises(ValueError, match="exists already"):
        export(built, tmp_path / "set")
    ROWS.head(1).write_parquet(built.folder / "rows.parquet")
    with pytest.raises(ValueError, match=r"rows\.parquet was changed or is missing"):
        export(built, tmp_path / "again")
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "set"}


@pytest.mark.parametrize("prompt", ["1 + 1?", render("1 + 1?", "zero"), f"{BEGIN}{USER}1", f"x{USER}1{ASSISTANT}", ""])
def test_a_prompt_in_another_template_has_no_messages(prompt: str) -> None:
    with pytest.raises(ValueError, match="not a prompt in the chat template"):
        messages(prompt, "2")
