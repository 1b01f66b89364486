"""Small random checkpoints of other families, written as their makers write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

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


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_tokenizer(chat_template: str | None = CHATML, known: str | None = None) -> Tokenizer:
    """A tokenizer as other families have them: bytes, three tokens of its own, and no unknown ones.

    `known` are the characters that it has, where not all of them.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet()) if known is None else sorted(set(known))
    inner = tokenizers.Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(text) for text in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    return Tokenizer(inner, eos="<|im_end|>", bos="<|endoftext|>", chat_template=chat_template)
