from __future__ import annotations

import pytest

from model.config import ModelConfig

V3 = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
    "ep_size": 1,
    "first_k_dense_replace": 3,
    "hidden_size": 7168,
    "n_group": 8,
    "q_lora_rank": 1536,
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
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
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
        {"quantization_config": {"quant_method": "fp8"}},
    ],
)
def test_a_variant_that_is_not_implemented_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        ModelConfig.from_dict({**V3, **change})


def test_routing_is_not_checked_where_no_layer_routes(tiny):
    assert tiny(first_k_dense_replace=3, n_group=3).n_moe_layers == 0
