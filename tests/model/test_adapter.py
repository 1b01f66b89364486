"""An adapter beside linear layers: what it leaves alone, what is saved of it, and that peft reads it."""

from __future__ import annotations

import json

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from model import adapter, checkpoint
from model.foreign import ForeignModel
from model.foreign_capture import CapturingDecoder, in_type
from model.loss import token_logprobs
from model.sampler import sample
from model.transformer import Transformer
from tests.model.families import FAMILIES, make

TOKENS = torch.arange(5, 25)[None]


def adapted(folder, family, tokenizer, **settings):
    model, _ = checkpoint.load(make(folder, family, tokenizer))
    adapter.adapt(model, **{"r": 4, "lora_alpha": 8, "seed": 1, **settings})
    return model


@torch.no_grad()
def trained(model):
    torch.manual_seed(2)
    for weight in adapter.tensors(model).values():
        weight.add_(0.05 * torch.randn_like(weight))


@pytest.mark.parametrize("family", list(FAMILIES))
def test_what_is_saved_is_the_merged_model_and_an_adapter_that_peft_reads(family, tmp_path, tokenizer):
    model = adapted(tmp_path / "base", family, tokenizer)
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        assert torch.equal(model(TOKENS), checkpoint.load(tmp_path / "base")[0](TOKENS))  # B is zero
        trained(model)
        told = model(TOKENS)
        assert (told - base(TOKENS).logits).abs().max() > 0.1
        checkpoint.save(tmp_path / "policy", model, tokenizer)
        merged, _ = checkpoint.load(tmp_path / "policy")
        torch.testing.assert_close(merged(TOKENS), told, atol=1e-4, rtol=1e-4)
        read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
        torch.testing.assert_close(read(TOKENS).logits, told, atol=1e-4, rtol=1e-4)
        beside = peft.PeftModel.from_pretrained(base, tmp_path / "policy" / "adapter")
        torch.testing.assert_close(beside(TOKENS).logits, told, atol=1e-5, rtol=1e-5)
    assert not adapter.is_adapted(merged)


def test_only_the_adapter_is_trained_and_it_is_drawn_by_its_seed(tmp_path, tokenizer):
    first, second, third = (adapted(tmp_path / str(n), "llama", tokenizer, seed=n // 2) for n in range(3))
    own = adapter.tensors(first)
    assert {name.rpartition(".lora_")[2] for name in own} == {"A.weight", "B.weight"}
    assert len(own) == 2 * 7 * 3
    assert sum(weight.requires_grad for weight in first.parameters()) == len(own)
    assert all(torch.equal(weight, adapter.tensors(second)[name]) for name, weight in own.items())
    name = "model.layers.0.mlp.up_proj.lora_A.weight"
    assert not torch.equal(own[name], adapter.tensors(third)[name])
    few = adapted(tmp_path / "few", "llama", tokenizer, target_modules=["q_proj", "v_proj"], r=2)
    assert len(adapter.tensors(few)) == 2 * 2 * 3


def test_the_files_of_an_adapter_are_the_same_bits_each_time(tmp_path, tokenizer):
    model = adapted(tmp_path / "base", "llama", tokenizer)
    adapter.write(tmp_path / "adapter", model)
    told = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert told["target_modules"] == sorted(told["target_modules"])
    assert (told["r"], told["lora_alpha"], told["lora_dropout"], told["peft_type"]) == (4, 8, 0.0, "LORA")
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert stored.keys() == {f"base_model.model.{name}" for name in adapter.tensors(model)}


def test_a_reference_is_what_the_policy_was_and_has_no_weights_of_its_own(tmp_path, tokenizer):
    model = adapted(tmp_path / "base", "llama", tokenizer)
    reference = adapter.reference_of(model)
    assert not list(reference.parameters())
    before = model.hidden(TOKENS)
    trained(model)
    ours = model.hidden(TOKENS)
    assert torch.equal(reference.hidden(TOKENS), before)
    ours.square().sum().backward()  # the reference was asked in between
    names = [name for name, weight in model.inner.named_parameters() if weight.grad is not None]
    assert len(names) == len(adapter.tensors(model))
    adapter.follow(reference, model)
    assert torch.equal(reference.hidden(TOKENS), ours)
    assert reference.hidden(TOKENS).requires_grad is False
    assert sum(weight.requires_grad for weight in model.parameters()) == len(names)
    kept = {name: weight.clone() for name, weight in adapter.tensors(reference).items()}
    trained(model)
    checkpoint.load_official(reference, {name: 0 * weight for name, weight in kept.items()})
    assert torch.equal(reference.hidden(TOKENS), before)


def test_a_reward_model_learns_by_its_head_and_an_adapter(tmp_path, tokenizer):
    model, _ = checkpoint.load(make(tmp_path / "base", "llama", tokenizer))
    judge = model.reward_model()
    adapter.adapt(judge, r=4, lora_alpha=8)
    assert judge.inner.score.weight.requires_grad
    trained(judge)
    lengths = torch.tensor([20])
    with torch.no_grad():
        told = judge(TOKENS, lengths)
        checkpoint.save(tmp_path / "judge", judge, tokenizer)
        assert "score.weight" in checkpoint.official_tensors(judge)
        torch.testing.assert_close(checkpoint.load(tmp_path / "judge")[0](TOKENS, lengths), told, atol=1e-4, rtol=1e-4)
        base = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
        beside = peft.PeftModel.from_pretrained(base, tmp_path / "judge" / "adapter").eval()
        last = beside(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS)).logits[:, 0]
        torch.testing.assert_close(last, told, atol=1e-5, rtol=1e-5)


def test_a_decoder_shares_the_weights_that_stand_still_and_copies_the_adapter(tmp_path, tokenizer, monkeypatch):
    model = adapted(tmp_path / "base", "llama", tokenizer)
    frozen = {w.data_ptr(): w.to(torch.bfloat16) for w in model.parameters() if not w.requires_grad}
    for weight in model.parameters():
        if not weight.requires_grad:
            weight.data = frozen[weight.data_ptr()]
    copied = in_type(model.inner, torch.bfloat16)
    ours, theirs = dict(copied.named_parameters()), dict(model.inner.named_parameters())
    shared = {name for name, weight in ours.items() if weight.data_ptr() == theirs[name].data_ptr()}
    assert shared == {name for name in theirs if ".lora_" not in name}
    assert {weight.dtype for weight in ours.values()} == {torch.bfloat16}
    decoder = CapturingDecoder(model, torch.bfloat16, lambda: lambda work: work, 8)
    adapter.reference_of(model)
    trained(model)
    decoder.begin(model, 1.0)
    name = "model.layers.0.mlp.up_proj.lora_B.default.weight"
    own = dict(decoder.own.inner.named_parameters())[name]
    assert torch.equal(own, dict(model.inner.named_parameters())[name].to(torch.bfloat16))


def test_samples_have_the_log_probabilities_of_the_trainer(tmp_path, tokenizer):
    model = adapted(tmp_path / "base", "llama", tokenizer)
    trained(model)
    [[one]] = sample(model, [[5, 6, 7]], [[3]], max_tokens=12, temperature=1.0, top_p=1.0, stop_ids=())
    row = torch.tensor([[5, 6, 7, *one.ids]])
    with torch.no_grad():
        hidden = model.hidden(row)[0, 2:-1]
        told, _ = token_logprobs(hidden, model.head, row[0, 3:])
    torch.testing.assert_close(torch.tensor(one.logprobs), told, atol=1e-4, rtol=1e-4)


def test_what_cannot_have_an_adapter_is_said_in_one_line(tiny, tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r"^lora: a model of DeepSeek-V3's architecture is trained whole; an adapter"):
        adapter.adapt(Transformer(tiny()), r=4, lora_alpha=8)
    folder = make(tmp_path / "base", "llama", tokenizer)
    told = r"^lora.target_modules: no linear layer is called 'q_porj'; there are down_proj, gate_proj, k_proj, o_proj, "
    model, _ = checkpoint.load(folder)
    with pytest.raises(ValueError, match=told):
        adapter.adapt(model, r=4, lora_alpha=8, target_modules=["q_porj"])
    assert isinstance(model, ForeignModel)
    assert not adapter.is_adapted(model)
    with pytest.raises(ValueError, match=told):
        checkpoint.check_adapter(folder, ["v_proj", "q_porj"])
    checkpoint.check_adapter(folder, ["v_proj"])
