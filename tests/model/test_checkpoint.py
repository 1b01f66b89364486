from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from model import checkpoint
from model.tokenizer import Tokenizer
from model.transformer import RewardModel, Transformer

TOKENS = torch.randint(1, 60, (2, 30), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def full(build, tokenizer):
    """A model of every part, with a vocabulary that fits the tokenizer."""
    return build(num_nextn_predict_layers=1, q_lora_rank=16, vocab_size=tokenizer.vocab_size)


def states_equal(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_model_survives_its_folder(full, tokenizer, tmp_path):
    checkpoint.save(tmp_path / "policy", full, tokenizer)
    again, read = checkpoint.load(tmp_path / "policy")
    assert isinstance(again, Transformer)
    assert not again.training
    assert again.config == full.config
    assert states_equal(again, full)
    assert torch.equal(again(TOKENS), full(TOKENS))
    assert read.encode("ab <think>") == tokenizer.encode("ab <think>")
    assert all(layer.load.sum() == 0 for layer in again.model.moe_layers())


def test_tensor_names_are_the_official_ones(full, tokenizer, tmp_path):
    checkpoint.save(tmp_path / "policy", full, tokenizer)
    names = load_file(tmp_path / "policy" / "model.safetensors").keys()
    for name in [
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_a_layernorm.weight",
        "model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.2.mlp.gate.e_score_correction_bias",
        "model.layers.2.mlp.experts.7.up_proj.weight",
        "model.layers.2.mlp.shared_experts.down_proj.weight",
        "model.layers.3.eh_proj.weight",
        "model.layers.3.shared_head.norm.weight",
        "model.layers.3.mlp.experts.0.down_proj.weight",
        "lm_head.weight",
    ]:
        assert name in names


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_nextn_predict_layers": 1, "first_k_dense_replace": 0},
        {"tie_word_embeddings": True},
        {
            "rope_scaling": {
                "factor": 4.0,
                "original_max_position_embeddings": 16,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
            }
        },
    ],
)
def test_transformers_loads_the_folder_to_equal_logits(build, tokenizer, tmp_path, changes):
    model = build(vocab_size=tokenizer.vocab_size, **changes)
    checkpoint.save(tmp_path / "policy", model, tokenizer, generation={"temperature": 0.6, "do_sample": True})
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", attn_implementation="eager").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(TOKENS).logits, model(TOKENS), atol=1e-4, rtol=1e-4)
    assert theirs.generation_config.temperature == 0.6
    assert theirs.generation_config.eos_token_id == tokenizer.eos_id
    assert AutoTokenizer.from_pretrained(tmp_path / "policy").eos_token_id == tokenizer.eos_id


def test_a_folder_written_by_transformers_is_read_back(build, tokenizer, tmp_path):
    model = build(vocab_size=tokenizer.vocab_size)
    checkpoint.save(tmp_path / "ours", model, tokenizer)
    AutoModelForCausalLM.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    tokenizer.save(tmp_path / "theirs")
    again, _ = checkpoint.load(tmp_path / "theirs")
    assert states_equal(again, model)


def test_a_large_model_is_stored_in_shards(full, tokenizer, tmp_path):
    checkpoint.save(tmp_path / "policy", full, tokenizer, max_shard_bytes=50_000)
    index = json.loads((tmp_path / "policy" / "model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 3
    for file in files:
        tensors = load_file(tmp_path / "policy" / file)
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= 50_000
    assert states_equal(checkpoint.load(tmp_path / "policy")[0], full)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "policy").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(TOKENS).logits, full(TOKENS), atol=1e-4, rtol=1e-4)


def test_sixteen_bits_halve_the_file_but_not_the_gate_bias(full, tokenizer, tmp_path):
    checkpoint.save(tmp_path / "policy", full, tokenizer, dtype=torch.float16)
    stored = load_file(tmp_path / "policy" / "model.safetensors")
    kinds = {name: tensor.dtype for name, tensor in stored.items()}
    for name, kind in kinds.items():
        assert kind == (torch.float32 if name.endswith("e_score_correction_bias") else torch.float16)
    again, _ = checkpoint.load(tmp_path / "policy")
    for name, tensor in full.state_dict().items():
        expected = tensor if name.endswith("e_score_correction_bias") else tensor.half().float()
        assert torch.equal(again.state_dict()[name], expected)


def test_loading_in_sixteen_bits_keeps_what_must_be_exact(full, tokenizer, tmp_path):
    checkpoint.save(tmp_path / "policy", full, tokenizer)
    half, _ = checkpoint.load(tmp_path / "policy", dtype=torch.bfloat16)
    assert half.lm_head.weight.dtype == torch.bfloat16
    gates = zip(half.model.moe_layers(), full.model.moe_layers(), strict=True)
    assert all(torch.equal(a.gate.e_score_correction_bias, b.gate.e_score_correction_bias) for a, b in gates)
    assert torch.equal(half.model.rope.frequencies, full.model.rope.frequencies)


def test_a_reward_model_survives_its_folder_and_transformers_agrees(full, tokenizer, tmp_path):
    judge = RewardModel.from_policy(full).eval()
    checkpoint.save(tmp_path / "judge", judge, tokenizer)
    again, _ = checkpoint.load(tmp_path / "judge")
    assert isinstance(again, RewardModel)
    assert states_equal(again, judge)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "judge").eval()
    with torch.no_grad():
        scores = theirs(TOKENS).logits[:, 0]
        torch.testing.assert_close(scores, judge(TOKENS, torch.tensor([30, 30])), atol=1e-4, rtol=1e-4)


def test_saving_replaces_the_folder_as_a_whole(full, tokenizer, tmp_path):
    folder = tmp_path / "policy"
    checkpoint.save(folder, full, tokenizer, max_shard_bytes=50_000)
    checkpoint.save(folder, full, tokenizer)
    assert not list(folder.glob("*index*"))
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_copies_in_an_official_multi_token_layer_are_passed_over(full, tokenizer, tmp_path):
    checkpoint.save(tmp_path / "policy", full, tokenizer)
    file = tmp_path / "policy" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.3.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.3.shared_head.head.weight"] = tensors["lm_head.weight"].clone()
    save_file(tensors, file)
    assert states_equal(checkpoint.load(tmp_path / "policy")[0], full)


@pytest.mark.parametrize("fault", ["missing", "unexpected", "misshapen"])
def test_a_wrong_tensor_is_one_error_that_names_it(full, tokenizer, tmp_path, fault):
    checkpoint.save(tmp_path / "policy", full, tokenizer)
    file = tmp_path / "policy" / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.mlp.experts.3.up_proj.weight"
    if fault == "missing":
        del tensors[name]
    elif fault == "unexpected":
        name = "model.layers.1.mlp.experts.8.up_proj.weight"
        tensors[name] = torch.zeros(16, 32)
    else:
        tensors[name] = torch.zeros(16, 31)
    save_file(tensors, file)
    with pytest.raises(ValueError, match=name):
        checkpoint.load(tmp_path / "policy")


def test_a_folder_that_is_not_whole_is_refused(full, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        checkpoint.load(tmp_path)
    checkpoint.save(tmp_path / "policy", full, tokenizer)
    file = tmp_path / "policy" / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        checkpoint.load(tmp_path / "policy")
    file.unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        checkpoint.load(tmp_path / "policy")


def test_loading_does_not_touch_the_random_state(full, tokenizer, tmp_path):
    checkpoint.save(tmp_path / "policy", full, tokenizer)
    state = torch.get_rng_state()
    checkpoint.load(tmp_path / "policy")
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(Tokenizer.load(tmp_path / "policy"), Tokenizer)
