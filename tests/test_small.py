"""Every stage of `small` with a handful of everything, a base that ships, and a student of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from data.lineage import read_json
from flows.recipe import load
from flows.run import run

RL = {"max_steps": 2, "prompts_per_step": 4, "num_generations": 4, "max_completion_length": 64, "save_steps": 2,
      "ref_model_sync_steps": 2}  # fmt: skip
SFT = {"num_train_epochs": 10, "batch_size": 16, "learning_rate": 2e-3}
READING = {"max_steps": 2, "batch_size": 4, "sequence_length": 64, "documents": 60, "learning_rate": 1e-4}
FEW = "{chain = 0.8, chain_sum_1 = 0.2}"
TABLES = {
    "base": {"path": '"seed:base"', "digest": '"5c51294c9e17cd256b81b47182636df8271eef64cb6c844ee0f31afb5166851d"'},
    "base.midtrain": READING,
    "student.initialise.architecture": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
                                        "num_attention_heads": 2, "num_key_value_heads": 2},
    "student.midtrain": READING,
    "problems": {"count": 200, "general_count": 60, "families": FEW, "languages": '["en", "zh"]'},
    "heldout": {"count": 8, "general_count": 8, "families": FEW, "languages": '["en", "zh"]'},
    "general": {"rows": 120},
    **dict.fromkeys(("zero", "direct", "reasoning", "student_rl"), RL),
    "alignment": {**RL, "general_prompts_per_step": 2, "preference_last_steps": 2},
    "cold.generate": {"problems": 100, "sampling.max_completion_length": 64},
    "cold.sft": SFT,
    "rejection.generate": {"problems": 100, "sampling.max_completion_length": 64},
    "sft": SFT,
    "preference.generate": {"problems": 40, "sampling.max_completion_length": 48, "sampling.num_generations": 4},
    "distill": {"num_train_epochs": 1},
    "evaluation": {"num_generations": 2, "general_generations": 2, "max_completion_length": 64, "bootstrap": 200},
}  # fmt: skip
CHANGES = [f"{table}.{key}={value}" for table, values in TABLES.items() for key, value in values.items()]


@pytest.mark.timeout(900)
def test_all_of_it_is_made_and_shown(tmp_path: Path) -> None:
    text = tmp_path / "own.jsonl"
    rows = [{"text": f"document {number} says a few words about the number {number}. " * 4} for number in range(200)]
    text.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    own = [f"{table}.midtrain.path={text}" for table in ("base", "student")]
    recipe = load("small", [*CHANGES, *own])
    made = read_json(run(recipe, tmp_path / "runs", "cpu", plain=True))
    stages = {stage["name"]: stage for stage in made["stages"]}
    assert {"base_untouched", "base", "direct", "zero", "dev3", "r1", "student_base", "student_distilled"} <= set(
        stages
    )
    assert {"base_untouched", "direct", "base", "zero", "r1", "student_rl"} <= set(made["models"])
    page = (tmp_path / "runs" / "small" / "report.html").read_text(encoding="utf-8")
    assert "direct RL" in page
    assert "base untouched" in page
    folder = tmp_path / "runs" / f"report-{stages['report']['fingerprint']}"
    curves = pl.read_parquet(folder / "curves.parquet").filter(curve="zero")
    assert curves["by_family/chain/value"].null_count() == 0
    assert curves["by_family/chain_sum_1/value"].null_count() == 0
    for name in ("base", "student_base"):
        told = read_json(tmp_path / "runs" / f"midtrain-{stages[name]['fingerprint']}" / "record.json")["summary"]
        assert 0 < told["heldout_text_loss"] < 20
        assert told["heldout_text_loss"] != told["heldout_text_loss_before"]
        before, after = (f"{told[key]:.2f}" for key in ("heldout_text_loss_before", "heldout_text_loss"))
        assert f"<td>{told['tokens']:,}</td><td>{before}</td><td>{after}</td>" in page
