"""Models of transformers answer the two questions, and come back from disk as they were."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from model import checkpoint, foreign
from model.foreign import ForeignModel, ForeignReward
from model.optim import adamw
from model.sampler import Drafts, logprobs, sample
from tests.model.families import FAMILIES, make

PROMPTS = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3, 12, 13], [11], [20, 21, 22, 23], [5, 6, 7]]
SEEDS = [[10, 11, 12], [20, 21], [30, 31, 32, 33], [40], [10, 50]]
SETTINGS = {"max_tokens": 14, "temperature": 1.0, "top_p": 1.0, "stop_ids": {2, 3, 4, 250, 251}}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tmp_path_factory, module_tokenizer):
    folder = make(tmp_path_factory.mktemp("base") / "model", request.param, module_tokenizer)
    loaded, _ = checkpoint.load(folder)
    assert isinstance(loaded, ForeignModel)
    assert not loaded.training
    return loaded


@pytest.fixture
def llama(tmp_path, tokenizer):
    return make(tmp_path / "llama", "llama", tokenizer)


def plain(model, prompt, ids, temperature):
    """Log-probabilities of the ids by transformers' own full forward."""
    tokens = torch.tensor([[*prompt, *ids]])
    with torch.no_grad():
        logits = model.inner(input_ids=tokens).logits[0, len(prompt) - 1 : -1].float()
    return (logits / temperature).log_softmax(-1)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 0.9)])
def test_what_is_sampled_has_the_log_probabilities_of_a_full_forward(model, temperature, top_p):
    settings = {**SETTINGS, "temperature": temperature, "top_p": top_p}
    finishes = set()
    for prompt, group in zip(PROMPTS, sample(model, PROMPTS, SEEDS, **settings), strict=True):
        for one in group:
            told = plain(model, prompt, one.ids, temperature)
            told = told.gather(1, torch.tensor(one.ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(one.logprobs), told, atol=1e-4, rtol=1e-4)
            with torch.no_grad():
                ours = logprobs(model, torch.tensor([prompt + one.ids]), temperature=temperature)
            torch.testing.assert_close(ours[0, len(prompt) - 1 :], told, atol=1e-4, rtol=1e-4)
            finishes.add(one.finish)
    assert finishes == {"stop", "length"}


def test_greedy_takes_the_most_likely_token_of_a_full_forward_each_time(model):
    groups = sample(model, PROMPTS, SEEDS, **{**SETTINGS, "temperature": 0.0, "stop_ids": ()})
    for prompt, group in zip(PROMPTS, groups, strict=True):
        assert group[0].ids == plain(model, prompt, group[0].ids, 1.0).argmax(-1).tolist()
        assert len(group[0].ids) == 14
        assert all(one.ids == group[0].ids for one in group)


def test_a_sample_does_not_depend_on_its_neighbours_or_their_order(model):
    together = [[one.ids for one in group] for group in sample(model, PROMPTS, SEEDS, **SETTINGS)]
    for max_batch in (1, 3):
        few = sample(model, PROMPTS, SEEDS, **SETTINGS, max_batch=max_batch)
        assert [[one.ids for one in group] for group in few] == together
    backwards = sample(model, PROMPTS[::-1], [seeds[::-1] for seeds in SEEDS[::-1]], **SETTINGS)
    assert [[one.ids for one in group[::-1]] for group in backwards[::-1]] == together
    assert together[0][0] == together[4][0]
    assert together[0][0] != together[0][1]


def test_gradients_are_those_of_transformers(model):
    tokens = torch.tensor([[5, 6, 7, 8, 9, 10], [9, 8, 7, 0, 0, 0]])
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    model.zero_grad()
    (logprobs(model, tokens, mask_BT=mask) * mask).sum().backward()
    ours = {name: each.grad.clone() for name, each in model.inner.named_parameters() if each.grad is not None}
    model.zero_grad()
    logits = model.inner(input_ids=tokens).logits[:, :-1].float().log_softmax(-1)
    (logits.gather(2, tokens[:, 1:, None])[..., 0] * mask).sum().backward()
    theirs = {name: each.grad for name, each in model.inner.named_parameters() if each.grad is not None}
    assert ours.keys() == theirs.keys()
    for name, grad in theirs.items():
        torch.testing.assert_close(ours[name], grad, atol=2e-4, rtol=1e-3, msg=name)
    model.zero_grad()


def test_a_model_answers_alike_in_all_ways(model):
    foreign.try_out(model)


def test_what_is_saved_loads_here_and_in_transformers_with_the_same_bits(model, tokenizer, tmp_path):
    checkpoint.save(tmp_path / "saved", model, tokenizer)
    again, _ = checkpoint.load(tmp_path / "saved")
    own = checkpoint.official_tensors(model)
    assert own.keys() == checkpoint.official_tensors(again).keys()
    assert all(torch.equal(tensor, checkpoint.official_tensors(again)[name]) for name, tensor in own.items())
    theirs, told = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens = torch.tensor([PROMPTS[1]])
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model(tokens), atol=1e-5, rtol=1e-5)
    checkpoint.save(tmp_path / "twice", again, tokenizer)
    for file in sorted((tmp_path / "saved").iterdir()):
        assert file.read_bytes() == (tmp_path / "twice" / file.name).read_bytes(), file.name


def test_a_reward_model_reads_the_last_token_of_each_row(llama, tokenizer, tmp_path):
    policy, _ = checkpoint.load(llama)
    torch.manual_seed(1)
    judge = policy.reward_model()
    checkpoint.save(tmp_path / "judge", judge, tokenizer)
    again, _ = checkpoint.load(tmp_path / "judge")
    assert isinstance(again, ForeignReward)
    tokens = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
    with torch.no_grad():
        scores = again(tokens, torch.tensor([4, 2]))
        torch.testing.assert_close(scores, judge(tokens, torch.tensor([4, 2])), atol=1e-6, rtol=1e-6)
        alone = again(torch.tensor([[9, 10]]), torch.tensor([2]))
        hidden = policy.hidden(tokens)[1, 1]
        torch.testing.assert_close(scores[1], hidden @ judge.inner.score.weight[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores[1:], alone, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="a reward model, which scores texts"):
        checkpoint.inspect(tmp_path / "judge")


def test_tied_weights_are_trained_once_and_put_back_whole(llama):
    model, _ = checkpoint.load(llama)
    before = {name: tensor.clone() for name, tensor in checkpoint.official_tensors(model).items()}
    assert sum(tensor.numel() for tensor in before.values()) == sum(p.numel() for p in model.parameters())
    optimizer = adamw(model, lr=0.1)
    logprobs(model, torch.tensor([[5, 6, 7]])).sum().backward()
    optimizer.step()
    assert torch.equal(model.head, model.inner.get_input_embeddings().weight)
    assert not torch.equal(model.head, next(t for n, t in before.items() if "embed" in n))
    checkpoint.load_official(model, before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in checkpoint.official_tensors(model).items())
    with pytest.raises(ValueError, match="is missing"):
        checkpoint.load_official(model, dict(list(before.items())[1:]))


def edit(folder, **changes):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))


def test_a_folder_that_does_not_fit_is_one_line(llama, tmp_path):
    checkpoint.inspect(llama)
    for changes, message in [
        ({"model_type": "vit"}, "model_type 'vit' is no causal language model"),
        ({"model_type": "unheard"}, "model_type 'unheard' is no causal language model"),
        ({"quantization_config": {"bits": 4}}, "its weights are quantised"),
        ({"vocab_size": 200}, "the tokenizer has ids up to 2.., more than vocab_size 200 holds"),
    ]:
        values = (llama / "config.json").read_text()
        edit(llama, **changes)
        for ask in (checkpoint.inspect, checkpoint.load):
            with pytest.raises(ValueError, match=message) as caught:
                ask(llama)
            assert "\n" not in str(caught.value)
        (llama / "config.json").write_text(values)
    weights = load_file(llama / "model.safetensors")
    for changed, message in [
        ({n: t for n, t in weights.items() if n != "model.norm.weight"}, "missing tensor 'model.norm.weight'"),
        (weights | {"odd": torch.ones(1)}, "unexpected tensor 'odd'"),
        (weights | {"model.norm.weight": torch.ones(5)}, r"tensor 'model.norm.weight' must be \(32,\), got \(5,\)"),
    ]:
        save_file(changed, llama / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match=message) as caught:
            checkpoint.load(llama)
        assert "\n" not in str(caught.value)
    (llama / "model.safetensors").unlink()
    (llama / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ValueError, match=r"no model.safetensors"):
        checkpoint.inspect(llama)


def test_a_head_that_is_no_product_is_refused(tmp_path, tokenizer):
    capped, _ = checkpoint.load(make(tmp_path / "capped", "gemma2", tokenizer, final_logit_softcapping=1.0))
    with pytest.raises(ValueError, match="no product of hidden states and one matrix"):
        foreign.try_out(capped)


def test_the_end_of_the_context_and_what_a_model_lacks(llama):
    model, _ = checkpoint.load(llama)
    [[one]] = sample(model, [[5] * 94], [[1]], **{**SETTINGS, "stop_ids": ()})
    assert (len(one.ids), one.finish) == (2, "length")
    with pytest.raises(ValueError, match="96 \\+ 1 tokens exceed"):
        sample(model, [[5] * 96], [[1]], **SETTINGS)
    with pytest.raises(ValueError, match="97 tokens do not fit a context of 96"):
        model.hidden(torch.zeros(1, 97, dtype=torch.long))
    with pytest.raises(ValueError, match="no multi-token layer"):
        sample(model, PROMPTS, SEEDS, **SETTINGS, drafts=Drafts())
    assert model.update_bias(0.1) == {}
    assert model.max_violation() == 0.0


def test_activations_that_are_computed_again_give_the_same_gradients(model):
    again = copy.deepcopy(model)
    again.config.attention_dropout = 0.5
    for module in again.inner.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    again.checkpoint_activations()
    calls = []
    layer = again.inner.base_model.layers[0]
    layer.input_layernorm.register_forward_hook(lambda *_: calls.append(1))
    tokens = torch.tensor([[5, 6, 7, 8, 9, 10]])
    for each in (model, again):
        each.train()
        logprobs(each, tokens).sum().backward()
        each.eval()
    assert len(calls) == 2  # forward, and once more for the backward pass
    theirs = dict(again.inner.named_parameters())
    for name, weight in model.inner.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(theirs[name].grad, weight.grad, atol=1e-6, rtol=1e-5)
    model.zero_grad()
    assert not again.inner.training
    with torch.no_grad():
        torch.testing.assert_close(again(tokens), model(tokens))
