"""The models that are measured: the miniature's base, and one of DeepSeek-V3's shape that fills a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from model import checkpoint
from model.config import ModelConfig
from model.transformer import Transformer

SEED = Path(__file__).parent.parent / "data" / "seeds" / "base"
V3_SHAPED = ModelConfig(
    vocab_size=32_000,
    hidden_size=768,
    intermediate_size=2048,
    moe_intermediate_size=256,
    num_hidden_layers=16,
    num_nextn_predict_layers=0,
    num_attention_heads=12,
    n_shared_experts=1,
    n_routed_experts=32,
    num_experts_per_tok=4,
    n_group=4,
    topk_group=2,
    routed_scaling_factor=2.5,
    first_k_dense_replace=1,
    q_lora_rank=384,
    kv_lora_rank=256,
    qk_nope_head_dim=64,
    qk_rope_head_dim=32,
    v_head_dim=64,
    max_position_embeddings=16_384,
    initializer_range=0.02,
)
ACTIVE = 130e6  # parameters of it that a token meets
PACKAGES = ("torch", "transformers")


def device() -> str:
    """The GPU's name, where there is one, else how many threads compute."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"


def base() -> tuple[Transformer, Any]:
    """The miniature's base and its tokenizer, on the CPU in float32."""
    model, tokenizer = checkpoint.load(SEED)
    assert isinstance(model, Transformer)
    return model, tokenizer


def v3_shaped(multi_token: int = 0) -> Transformer:
    """The model of DeepSeek-V3's shape on the GPU in bfloat16, of seeded random weights."""
    torch.manual_seed(0)
    config = ModelConfig(**{**vars(V3_SHAPED), "num_nextn_predict_layers": multi_token})
    with torch.device("cuda"):
        return Transformer(config).to(torch.bfloat16)


def peer(model: Transformer, experts: str = "grouped_mm") -> Any:
    """transformers' model of the same weights, where ours is; the multi-token layer, which it has not, apart."""
    logging.set_verbosity_error()
    values = model.config.to_dict()
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    weight = model.lm_head.weight
    with torch.device(weight.device):
        other = AutoModelForCausalLM.from_config(
            config, dtype=weight.dtype, attn_implementation="sdpa", experts_implementation=experts
        )
    other.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if ".mtp." not in name})
    return other
