"""Small real models: two or three layers are smaller than any imitation of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from model.config import ModelConfig
from model.tokenizer import Tokenizer
from model.transformer import Transformer

TINY: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_nextn_predict_layers": 0,
    "num_attention_heads": 4,
    "n_shared_experts": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.0,
    "first_k_dense_replace": 1,
    "q_lora_rank": None,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


@pytest.fixture
def tiny() -> Callable[..., ModelConfig]:
    """tiny(field=value, ...): a small configuration with these fields changed."""
    return lambda **changes: ModelConfig(**{**TINY, **changes})


@pytest.fixture
def build(tiny: Callable[..., ModelConfig]) -> Callable[..., Transformer]:
    """build(field=value, ...): a small model, seeded, whose norms and gate biases are not trivial."""

    def make(**changes: Any) -> Transformer:
        torch.manual_seed(0)
        model = Transformer(tiny(**changes))
        with torch.no_grad():
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                if "norm" in name:
                    tensor.uniform_(0.5, 1.5)
                if "e_score_correction_bias" in name:
                    tensor.normal_(0, 0.3)
        return model.eval()

    return make


@pytest.fixture(scope="module")
def module_tokenizer() -> Tokenizer:
    """28 pieces of 60-token models would not hold 256 bytes: this one has a vocabulary of its own, of 300."""
    pieces = [*"abcdefghij", *(f" {letter}" for letter in "abcdefghij"), "ab", " abc", "中", "文", "\n"]
    return Tokenizer.build(pieces, ["<|user|>"], ["<think>", "</think>"], "<s>", "</s>", "<pad>")


@pytest.fixture
def tokenizer(module_tokenizer: Tokenizer) -> Tokenizer:
    return module_tokenizer
