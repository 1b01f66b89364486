"""What a recipe takes from outside is refused in one line that names the setting, before anything is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.inspect import inspect
from flows.recipe import load
from tests.flows.beginner import beginner
from tests.model.families import byte_tokenizer, make

SIZES = {"vocab_size": 264, "num_hidden_layers": 1, "eos_token_id": 258, "bos_token_id": 256, "pad_token_id": None}


def looked_at(*changes: str) -> None:
    inspect(load("tiny", changes))


def base(folder: Path, template: str | None = None, **changes: Any) -> Path:
    return make(folder, "llama", byte_tokenizer(template), **{**SIZES, "max_position_embeddings": 193, **changes})


def test_a_context_holds_the_longest_completion_and_a_prompt(tmp_path: Path) -> None:
    path = base(tmp_path / "llama")
    looked_at(f"base.path={path}", f"student.path={path}")
    with pytest.raises(ValueError, match=r"base.path = .*llama': its context of 193 tokens has no room for") as caught:
        looked_at(f"base.path={path}", "reasoning.max_completion_length=193")
    assert "reasoning.max_completion_length = 193 and a prompt" in str(caught.value)
    looked_at(f"student.path={path}", "reasoning.max_completion_length=193")
    with pytest.raises(ValueError, match=r"student.path = .*no room for student_rl.max_completion_length = 300"):
        looked_at(f"student.path={path}", "student_rl.max_completion_length=300")


def test_a_base_that_cannot_be_taken_is_one_line(tmp_path: Path) -> None:
    silent = base(tmp_path / "silent", template="hello")
    small = base(tmp_path / "small", vocab_size=200, eos_token_id=2, bos_token_id=1)
    (tmp_path / "text.gguf").write_text("hello")
    for path, message in [
        (silent, "its chat template leaves the question out"),
        (small, "the tokenizer has ids up to 258, more than vocab_size 200 holds"),
        (tmp_path / "text.gguf", "no GGUF file: it does not begin with GGUF"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            looked_at(f"base.path={path}")
        assert str(caught.value).startswith(f"base.path = '{path}': ")
        assert "\n" not in str(caught.value)


def test_weights_are_held_against_their_configuration(tmp_path: Path) -> None:
    cut, shape, other = (base(tmp_path / name) for name in ("cut", "shape", "other"))
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    for folder, changes in ((shape, {"intermediate_size": 64}), (other, {"model_type": "gpt2", "n_positions": 193})):
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**values, **changes}))
    for path, message in [
        (cut, "is not a whole safetensors file: "),
        (shape, r"tensor 'model.layers.0.mlp.gate_proj.weight' must be \(64, 32\), got \(48, 32\)"),
        (other, r"its tensors \(model.embed_tokens.weight, ...\) are not those of its config.json"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            looked_at(f"base.path={path}")
        assert str(caught.value).startswith(f"base.path = '{path}': ")
        assert "\n" not in str(caught.value)


READS = f"""
[base]
path = "seed:base"
[base.midtrain]
path = "own.txt"
sequence_length = 64
{beginner(300)}
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("base.midtrain.sequence_length=513",
         "base.path = '.*': its context of 512 tokens has no room for base.midtrain.sequence_length = 513"),
        ("base.midtrain.path={here}/few.txt", "base.midtrain.path = '.*few.txt': 1 documents are too few to hold out"),
        ("base.midtrain.path={here}/own.odt", "base.midtrain.path = '.*own.odt': own.odt: text comes as .txt, .jsonl"),
        ("student.initialise.architecture.max_position_embeddings=100", "student.initialise: its context of 100 tok"),
        ("student.initialise.architecture.depth=100", "student.initialise: model_type 'llama' has no field 'depth'"),
        ("student.initialise.architecture.num_attention_heads=5",
         r"student.initialise: no model can be made of this configuration \(llama\): .*32.* is not a multiple of"),
        ("student.initialise.architecture.hidden_size=-32",
         r"student.initialise: no model can be made of this configuration \(llama\): "),
    ],
)  # fmt: skip
def test_what_reads_on_and_what_begins_are_looked_at(tmp_path: Path, change: str, message: str) -> None:
    (tmp_path / "mine.toml").write_text(READS)
    (tmp_path / "own.txt").write_text("\n\n".join(f"{number} is a number. " * 300 for number in range(99)))
    (tmp_path / "few.txt").write_text("few words")
    (tmp_path / "own.odt").write_text("words")
    inspect(load(str(tmp_path / "mine.toml")))
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        inspect(load(str(tmp_path / "mine.toml"), [change.replace("{here}", str(tmp_path))]))
    assert "\n" not in str(caught.value)


def test_a_prompt_that_fills_the_context_is_told(tmp_path: Path) -> None:
    rows = [{"prompt": f"{number} " + "word " * (600 if number == 31 else 1), "solution": "1"} for number in range(80)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.toml").write_text(
        '[base]\npath = "seed:base"\n[student]\npath = "seed:student"\n'
        '[problems]\npath = "own.jsonl"\n[heldout]\npath = "own.jsonl"\n'
    )
    with pytest.raises(ValueError, match=r"^problems.path = .*: problem own/0000\d\d has \d+ tokens in its template"):
        inspect(load(str(tmp_path / "mine.toml")))
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:30]))
    inspect(load(str(tmp_path / "mine.toml")))


def test_an_adapter_that_a_base_cannot_have_is_told_by_its_setting(tmp_path: Path) -> None:
    path = base(tmp_path / "llama")
    looked_at(f"base.path={path}", f"student.path={path}", "zero.lora.r=4", "preference.helpful.lora.r=4")
    with pytest.raises(
        ValueError, match=r"^zero\.lora: a model of DeepSeek-V3's architecture is trained whole; an adap"
    ):
        looked_at("zero.lora.r=4")
    with pytest.raises(
        ValueError, match=r"^cold\.sft\.lora\.target_modules: no linear layer is called 'q'; there are d"
    ):
        looked_at(f"base.path={path}", f"student.path={path}", 'cold.sft.lora.target_modules=["q"]')
    with pytest.raises(ValueError, match=r"^student_rl\.lora: a model of DeepSeek-V3's"):
        looked_at(f"base.path={path}", "student_rl.lora.r=4")
