from __future__ import annotations

import pytest
import torch

from model.config import ModelConfig
from model.transformer import Transformer

V3 = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_deepseek.DeepseekV3Config",
        "AutoModel": "modeling_deepseek.DeepseekV3Model",
        "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM",
    },
    "bos_token_id": 0,
    "eos_token_id": 1,
    "ep_size": 1,
    "first_k_dense_replace": 3,
    "hidden_act": "silu",
    "hidden_size": 7168,
    "initializer_range": 0.02,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.33.1",
    "use_cache": True,
    "v_head_dim": 128,
    "vocab_size": 129280,
}


def test_an_official_config_is_read_and_its_other_keys_are_passed_over():
    config = ModelConfig.from_dict(V3)
    assert (config.hidden_size, config.n_group, config.q_lora_rank, config.n_moe_layers) == (
        7168,
        8,
        1536,
        58,
    )
    assert config.rope_scaling["factor"] == 40.0
    assert config.latent_dim == 576


def test_the_official_model_has_671_billion_parameters():
    """The official file, on the meta device; the multi-token layer is counted apart, as its README does."""
    with torch.device("meta"):
        model = Transformer(ModelConfig.from_dict(V3))
    total = sum(parameter.numel() for parameter in model.parameters())
    multi_token = sum(parameter.numel() for parameter in model.model.mtp.parameters())
    assert round((total - multi_token) / 1e9, 2) == 671.03
    assert round(multi_token / 1e9, 2) == 11.61


def test_a_config_survives_its_file(tiny):
    yarn = {"factor": 4, "original_max_position_embeddings": 32}
    for changes in ({}, {"rope_scaling": yarn}, {"q_lora_rank": 16, "tie_word_embeddings": True}):
        config = tiny(**changes)
        assert ModelConfig.from_dict(config.to_dict()) == config


def test_the_spelling_of_newer_transformers_is_read(tiny):
    values = tiny().to_dict()
    del values["rope_theta"], values["rope_scaling"]
    plain = {**values, "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}
    assert ModelConfig.from_dict(plain) == tiny(rope_theta=5000.0)
    scaling = {"factor": 4.0, "original_max_position_embeddings": 32}
    yarn = {**values, "rope_parameters": {"rope_type": "yarn", "rope_theta": 5000.0, **scaling}}
    assert ModelConfig.from_dict(yarn) == tiny(rope_theta=5000.0, rope_scaling=scaling)


def test_zero_and_none_both_mean_no_query_latent(tiny):
    assert tiny(q_lora_rank=0).to_dict()["q_lora_rank"] is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n_group": 3}, "n_group"),
        ({"n_group": 8, "topk_group": 2}, "n_group"),
        ({"n_group": 4, "topk_group": 1, "num_experts_per_tok": 3}, "num_experts_per_tok"),
        ({"n_group": 4, "topk_group": 5}, "topk_group"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok"),
        ({"qk_rope_head_dim": 7}, "qk_rope_head_dim"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_nextn_predict_layers": 2}, "num_nextn_predict_layers"),
        ({"eos_token_id": 60}, "eos_token_id"),
        ({"rope_scaling": {"factor": 2.0}}, "original_max_position_embeddings"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused_by_name(tiny, changes, named):
    with pytest.raises(ValueError, match=named):
        tiny(**changes)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "llama"},
        {"scoring_func": "softmax"},
        {"topk_method": "greedy"},
        {"rope_interleave": False},
    ],
)
def test_a_variant_that_is_not_implemented_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        ModelConfig.from_dict({**V3, **change})


def test_routing_is_not_checked_where_no_layer_routes(tiny):
    assert tiny(first_k_dense_replace=3, n_group=3).n_moe_layers == 0
