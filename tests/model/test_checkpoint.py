from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from model import checkpoint, fp8
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
    multi_token = load_file(tmp_path / "policy" / "mtp.safetensors").keys()
    assert all(name.startswith("model.layers.3.") for name in multi_token)
    assert not any(name.startswith("model.layers.3.") for name in names)
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
        assert name in names | multi_token


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


@pytest.mark.parametrize("shard", [5 * 10**9, 50_000])
def test_transformers_loads_the_folder_without_a_warning(full, tokenizer, tmp_path, shard, caplog, recwarn):
    checkpoint.save(tmp_path / "policy", full, tokenizer, max_shard_bytes=shard)
    logging.enable_propagation()
    logging.set_verbosity_warning()
    try:
        loaded, told = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", output_loading_info=True)
        AutoTokenizer.from_pretrained(tmp_path / "policy")
    finally:
        logging.disable_propagation()
    assert not any(told.values()), told
    assert not [record.message for record in caplog.records if record.levelname in {"WARNING", "ERROR"}]
    assert not [str(warning.message) for warning in recwarn]
    with torch.no_grad():
        torch.testing.assert_close(loaded(TOKENS).logits, full(TOKENS), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("multi_token", [0, 1])
def test_a_folder_written_by_transformers_is_read_back(build, tokenizer, tmp_path, multi_token):
    """transformers has no multi-token layer: what it saves is the main model alone."""
    model = build(vocab_size=tokenizer.vocab_size, num_nextn_predict_layers=multi_token)
    checkpoint.save(tmp_path / "ours", model, tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="50KB" if multi_token else "5GB")
    tokenizer.save(tmp_path / "theirs")
    again, _ = checkpoint.load(tmp_path / "theirs")
    assert again.model.mtp is None
    mine = model.state_dict()
    assert all(torch.equal(tensor, mine[name]) for name, tensor in again.state_dict().items())
    assert torch.equal(again(TOKENS), model(TOKENS))


def test_a_layer_among_the_shards_is_set_apart(full, tokenizer, tmp_path):
    """The layout of official folders, where the index lists the multi-token layer with the others."""
    checkpoint.save(tmp_path / "ours", full, tokenizer, max_shard_bytes=50_000)
    shutil.copytree(tmp_path / "ours", tmp_path / "whole")
    index = json.loads((tmp_path / "whole" / "model.safetensors.index.json").read_text())
    first = tmp_path / "whole" / min(index["weight_map"].values())
    apart = load_file(tmp_path / "whole" / "mtp.safetensors")
    save_file({**load_file(first), **apart}, tmp_path / "whole" / "new", {"format": "pt"})
    (tmp_path / "whole" / "new").rename(first)
    (tmp_path / "whole" / "mtp.safetensors").unlink()
    index["weight_map"] |= dict.fromkeys(apart, first.name)
    index["metadata"]["total_size"] += sum(tensor.nbytes for tensor in apart.values())
    (tmp_path / "whole" / "model.safetensors.index.json").write_text(json.dumps(index))
    for _ in range(2):
        checkpoint.set_apart(tmp_path / "whole")
        assert {file.name for file in (tmp_path / "whole").iterdir()} == {
            file.name for file in (tmp_path / "ours").iterdir()
        }
        for file in (tmp_path / "ours").iterdir():
            if file.suffix == ".safetensors":
                one, other = load_file(file), load_file(tmp_path / "whole" / file.name)
                assert one.keys() == other.keys()
                assert all(torch.equal(one[name], other[name]) for name in one)
            else:
                assert file.read_bytes() == (tmp_path / "whole" / file.name).read_bytes()


def quantised(folder, block=(128, 128)):
    """The folder's weights as the official ones are: projections in float8, each with its blocks' scales."""
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": list(block),
    }
    (folder / "config.json").write_text(json.dumps(config))
    expected = {}
    for file in (folder / "model.safetensors", folder / "mtp.safetensors"):
        stored = {}
        for name, tensor in load_file(file).items():
            stored[name] = expected[name] = tensor
            if "_proj" in name:
                eight, scale = fp8.quantise(tensor, block)
                stored[name], stored[name + "_scale_inv"] = eight, scale
                expected[name] = by_element(eight, scale, block)
        save_file(stored, file)
    return expected


def by_element(eight, scale, block):
    rows, columns = (torch.arange(size) // step for size, step in zip(eight.shape, block, strict=True))
    return eight.float() * scale[rows][:, columns]


@pytest.mark.parametrize("block", [(128, 128), (16, 8)])
def test_official_weights_in_blocks_of_float8_are_read(build, tokenizer, tmp_path, block):
    shape = {"hidden_size": 160, "intermediate_size": 200, "initializer_range": 0.05}
    model = build(num_nextn_predict_layers=1, q_lora_rank=16, vocab_size=tokenizer.vocab_size, **shape)
    checkpoint.save(tmp_path / "policy", model, tokenizer)
    expected = quantised(tmp_path / "policy", block)
    checkpoint.inspect(tmp_path / "policy")
    again, _ = checkpoint.load(tmp_path / "policy")
    mine = checkpoint.official_tensors(again)
    assert mine.keys() == expected.keys()
    assert all(torch.equal(mine[name], expected[name]) for name in mine)
    original = checkpoint.official_tensors(model)
    for name in mine:
        error = (mine[name] - original[name]).abs().max() / original[name].abs().max()
        assert error < (0.04 if "_proj" in name else 1e-9), name  # three bits of mantissa: half of 1/16
    with torch.no_grad():
        assert torch.corrcoef(torch.stack([again(TOKENS).flatten(), model(TOKENS).flatten()]))[0, 1] > 0.95


def test_a_scale_that_is_missing_or_does_not_fit_is_named(full, tokenizer, tmp_path):
    checkpoint.save(tmp_path / "policy", full, tokenizer)
    quantised(tmp_path / "policy")
    file = tmp_path / "policy" / "model.safetensors"
    whole = load_file(file)
    scale = "model.layers.1.mlp.experts.3.up_proj.weight_scale_inv"
    for change, message in [
        ({scale: None}, f"missing tensor '{scale}'"),
        ({scale: torch.ones(2, 1)}, rf"'{scale}' must be \(1, 1\), got \(2, 1\)"),
        ({"model.norm.weights_scale_inv": torch.ones(1, 1)}, "unexpected tensor 'model.norm.weights_scale_inv'"),
    ]:
        save_file({name: tensor for name, tensor in {**whole, **change}.items() if tensor is not None}, file)
        with pytest.raises(ValueError, match=message):
            checkpoint.load(tmp_path / "policy")


def test_another_quantisation_is_refused(full, tokenizer, tmp_path):
    checkpoint.save(tmp_path / "policy", full, tokenizer)
    file = tmp_path / "policy" / "config.json"
    config = json.loads(file.read_text())
    for wrong in ({"quant_method": "awq"}, {"quant_method": "fp8", "weight_block_size": [128]}):
        file.write_text(json.dumps({**config, "quantization_config": wrong}))
        with pytest.raises(ValueError, match="quantization_config"):
            checkpoint.load(tmp_path / "policy")


def test_a_tokenizer_larger_than_the_embedding_is_refused(build, tokenizer, tmp_path):
    checkpoint.save(tmp_path / "policy", build(vocab_size=tokenizer.vocab_size - 1), tokenizer)
    for read in (checkpoint.load, checkpoint.inspect):
        with pytest.raises(ValueError, match=f"ids up to {tokenizer.vocab_size - 1}"):
            read(tmp_path / "policy")


def test_a_pickle_is_never_opened(full, tokenizer, tmp_path):
    checkpoint.save(tmp_path / "policy", full, tokenizer)
    (tmp_path / "policy" / "model.safetensors").unlink()
    torch.save(full.state_dict(), tmp_path / "policy" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no model\.safetensors"):
        checkpoint.load(tmp_path / "policy")
    (tmp_path / "policy" / "pytorch_model.bin").rename(tmp_path / "policy" / "model.safetensors")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        checkpoint.load(tmp_path / "policy")


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


@pytest.mark.parametrize("layer", ["main", "multi-token"])
@pytest.mark.parametrize("fault", ["missing", "unexpected", "misshapen"])
def test_a_wrong_tensor_is_one_error_that_names_it(full, tokenizer, tmp_path, fault, layer):
    checkpoint.save(tmp_path / "policy", full, tokenizer)
    file = tmp_path / "policy" / ("model.safetensors" if layer == "main" else "mtp.safetensors")
    tensors = load_file(file)
    name = f"model.layers.{1 if layer == 'main' else 3}.mlp.experts.3.up_proj.weight"
    if fault == "missing":
        del tensors[name]
    elif fault == "unexpected":
        name = name.replace("experts.3", "experts.8")
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
