"""The same question asked of transformers' DeepSeek-V3: equal logits, equal gradients, in float32."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_layers import MtpLayer

from model.checkpoint import official_tensors

YARN = {
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 8.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
GRID = {
    "plain": {},
    "query latent": {"q_lora_rank": 20},
    "groups": {"n_group": 4, "topk_group": 2, "num_experts_per_tok": 3},
    "one group of four": {"n_group": 4, "topk_group": 1},
    "all layers dense": {"first_k_dense_replace": 3},
    "no layer dense": {"first_k_dense_replace": 0},
    "two shared experts": {"n_shared_experts": 2},
    "weights not normalised": {"norm_topk_prob": False, "routed_scaling_factor": 2.5},
    "scaled": {"routed_scaling_factor": 2.5, "q_lora_rank": 20, "n_group": 2, "topk_group": 1},
    "wide values": {"v_head_dim": 24},
    "tied": {"tie_word_embeddings": True},
    "yarn": {"rope_scaling": YARN},
    "yarn as in the code's defaults": {"rope_scaling": {**YARN, "mscale_all_dim": 0.0}},
    "yarn of unequal magnitudes": {"rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3}},
}


def stack_experts(tensors, names, experts):
    """Official tensors under the names that transformers gives them inside a model."""
    stacked = {}
    for name in names:
        prefix, _, kind = name.rpartition(".")
        if kind == "gate_up_proj":
            halves = [(f"{prefix}.{e}.gate_proj.weight", f"{prefix}.{e}.up_proj.weight") for e in range(experts)]
            stacked[name] = torch.stack([torch.cat([tensors[gate], tensors[up]]) for gate, up in halves])
        elif prefix.endswith(".experts"):
            stacked[name] = torch.stack([tensors[f"{prefix}.{e}.down_proj.weight"] for e in range(experts)])
        elif name == "lm_head.weight":
            stacked[name] = tensors.get(name, tensors["model.embed_tokens.weight"])
        else:
            stacked[name] = tensors[name]
    return stacked


def theirs(model):
    """transformers' model with the weights of ours, carried over by official tensor names alone."""
    values = model.config.to_dict()
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    other = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    tensors = {name: tensor.detach().clone() for name, tensor in official_tensors(model).items()}
    other.load_state_dict(stack_experts(tensors, other.state_dict(), model.config.n_routed_experts))
    return other


def difference(a, b):
    return float((a - b).detach().abs().max() / b.detach().abs().max())


@pytest.mark.parametrize("changes", GRID.values(), ids=GRID.keys())
def test_logits_and_gradients_equal_those_of_transformers(build, changes):
    model = build(**changes)
    other = theirs(model)
    tokens = torch.randint(1, 60, (3, 50), generator=torch.Generator().manual_seed(1))
    weight = torch.randn(3, 50, 60, generator=torch.Generator().manual_seed(2))
    ours, reference = model(tokens), other(tokens).logits
    assert difference(ours, reference) < 1e-4
    (ours * weight).sum().backward()
    (reference * weight).sum().backward()
    gradients = {name: parameter.grad for name, parameter in other.named_parameters()}
    compared = 0
    for name, parameter in model.named_parameters():
        assert difference(parameter.grad, gradients[name]) < 1e-4, name
        compared += 1
    assert compared == len(gradients)


def test_multi_token_layer_equals_that_of_transformers(build):
    model = build(num_nextn_predict_layers=1, first_k_dense_replace=0)
    other = theirs(model)
    block, norm = type(other.model.layers[0]), type(other.model.norm)
    layer = MtpLayer(other.config, block, norm, 0).eval()
    own = {}
    for name, tensor in official_tensors(model).items():
        if name.startswith("model.layers.3."):
            short = name.removeprefix("model.layers.3.").replace("shared_head.norm", "post_norm")
            inside = short.startswith(("input", "post_attention", "self_attn", "mlp"))
            own[f"mtp_block.{short}" if inside else short] = tensor.detach().clone()
    layer.load_state_dict(stack_experts(own, layer.state_dict(), 8))
    tokens = torch.randint(1, 60, (2, 40), generator=torch.Generator().manual_seed(3))
    hidden, further = model.hidden_with_mtp(tokens)
    reference = other.model(tokens).last_hidden_state
    positions = torch.arange(39)[None]
    expected = layer(
        other.model.embed_tokens(tokens[:, 1:]),
        reference[:, :-1],
        position_embeddings=other.model.rotary_emb(reference, positions),
        attention_mask=torch.full((39, 39), -torch.inf).triu(1)[None, None],
        position_ids=positions,
        past_key_values=None,
    )
    assert difference(hidden, reference) < 1e-4
    assert difference(further, expected) < 1e-4
