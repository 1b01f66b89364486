"""A small Llama written as GGUF becomes a checkpoint with the same weights, to the rounding of its blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from model import checkpoint
from model.gguf import convert, inspect
from tests.model.families import CHATML, SMALL, byte_tokenizer

gguf = pytest.importorskip("gguf")
pytest.importorskip("accelerate")

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
SIZES = {**SMALL, "vocab_size": 260, "bos_token_id": 256, "eos_token_id": 258, "pad_token_id": 258,
         "hidden_size": 64, "intermediate_size": 96}  # fmt: skip


def gguf_name(name: str) -> str:
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}  # fmt: skip
    if name in whole:
        return whole[name]
    _, _, number, *part, _ = name.split(".")
    return f"blk.{number}.{NAMES['.'.join(part)]}.weight"


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows in the order in which llama.cpp rotates: halves of a head one by one."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write(file: Path, model: Any, kind: str = "F32", architecture: str = "llama", **left_out: bool) -> Path:
    """Write a Llama as converters of llama.cpp do."""
    config, tokenizer = model.config, byte_tokenizer()
    writer = gguf.GGUFWriter(file, architecture)
    if not left_out.get("context"):
        writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = [*sorted(tokenizer.inner.get_vocab(), key=tokenizer.inner.token_to_id), "ab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if text.startswith("<|") else 1 for text in vocabulary])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(258)
    writer.add_chat_template(CHATML)
    for name, tensor in model.state_dict().items():
        array = tensor.numpy().astype(np.float32)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            array = interleaved(array, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads)
        stored = gguf.GGMLQuantizationType[kind if array.ndim == 2 else "F32"]
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture
def llama() -> Any:
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model("llama", **SIZES)).eval()


@pytest.mark.parametrize(("kind", "error"), [("F32", 0.0), ("Q8_0", 0.01), ("Q4_1", 0.15)])
def test_weights_come_out_as_they_went_in(
    llama: Any, tmp_path: Path, kind: str, error: float, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "small.gguf", llama, kind)
    assert inspect(file) == 96
    capsys.readouterr()
    convert(file, tmp_path / "folder")
    assert capsys.readouterr() == ("", "")
    assert checkpoint.inspect(tmp_path / "folder") == 96
    checkpoint.try_out(tmp_path / "folder")
    model, tokenizer = checkpoint.load(tmp_path / "folder")
    theirs = llama.state_dict()
    for name, tensor in model.inner.state_dict().items():
        assert tensor.dtype == torch.float32
        assert float((tensor - theirs[name]).abs().max()) <= error, name
    text = "1 + 1 = 2 中<|im_end|>"
    assert tokenizer.encode(text) == byte_tokenizer().encode(text)
    assert tokenizer.encode("ab") == [259]
    assert (tokenizer.eos, tokenizer.chat_template) == ("<|im_end|>", CHATML)
    assert "quantization_config" not in (tmp_path / "folder" / "config.json").read_text()


def test_what_cannot_be_converted_is_one_line(llama: Any, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    whole = write(tmp_path / "whole.gguf", llama).read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:200])
    for file, message in [
        (tmp_path / "text.gguf", "no GGUF file: it does not begin with GGUF"),
        (tmp_path / "cut.gguf", "no whole GGUF file"),
        (write(tmp_path / "odd.gguf", llama, architecture="clip"), "GGUF of architecture 'clip', which transformers"),
        (write(tmp_path / "short.gguf", llama, context=True), "names no llama.context_length"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            convert(file, tmp_path / "folder")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "folder").exists()
