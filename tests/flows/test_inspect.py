"""What a recipe takes from outside is refused in one line that names the setting, before anything is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.inspect import inspect
from flows.recipe import load
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
