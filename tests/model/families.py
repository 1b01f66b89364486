"""Small random checkpoints of other families, written as their makers write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from model.tokenizer import Tokenizer

SMALL: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "qwen2": {"vocab_size": 320},  # padded: more rows than the tokenizer has ids
    "qwen3": {"head_dim": 12},
    "mistral": {"sliding_window": 6},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "gemma2": {"final_logit_softcapping": None, "sliding_window": 6, "head_dim": 8, "query_pre_attn_scalar": 8},
}


def make(folder: Path, family: str, tokenizer: Tokenizer, **changes: Any) -> Path:
    """Write a checkpoint folder of this family, by transformers and its tokenizer."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **{**SMALL, **FAMILIES[family], **changes})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save(folder)
    return folder
