"""The same answers on a GPU. Run where there is one."""

from __future__ import annotations

import pytest
import torch

from model import checkpoint
from model.device import current
from model.loss import token_logprobs
from model.moe import MoE
from model.optim import adamw
from model.sampler import Drafts, logprobs, sample

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

TOKENS = torch.randint(1, 60, (4, 40), generator=torch.Generator().manual_seed(0))
SETTINGS = {"max_tokens": 24, "temperature": 1.0, "top_p": 0.95, "stop_ids": {1, 2, 3}}
PROMPTS = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3], [11]]
SEEDS = [[10, 11, 12], [20, 21], [30, 31, 32, 33]]


def ids(groups):
    return [[one.ids for one in group] for group in groups]


@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": 16, "n_group": 4, "topk_group": 2}])
def test_logits_and_gradients_equal_those_of_the_cpu(build, changes):
    here, there = build(**changes), build(**changes).cuda()
    logits, others = here(TOKENS), there(TOKENS.cuda())
    torch.testing.assert_close(others.cpu(), logits, atol=1e-4, rtol=1e-4)
    logits.square().sum().backward()
    others.square().sum().backward()
    for one, other in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(other.grad.cpu(), one.grad, atol=1e-2, rtol=1e-3)


def test_grouped_products_in_bfloat16_stay_near_float32(tiny):
    torch.manual_seed(0)
    layer = MoE(tiny()).cuda()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.2)
    x = torch.randn(300, 32, device="cuda", requires_grad=True)
    _, chosen, weights = layer.gate(x)
    chosen, weights = chosen.detach(), weights.detach()
    exact = layer.experts.grouped(x, chosen, weights)
    with torch.autocast("cuda", torch.bfloat16):
        rough = layer.experts.grouped(x, chosen, weights)
    results = [
        torch.autograd.grad(out.float().square().sum(), [x, *layer.experts.parameters()]) for out in (exact, rough)
    ]
    for one, other in [(exact, rough.float()), *zip(*results, strict=True)]:
        assert float(((one - other).norm() / one.norm()).detach()) < 0.03


def test_sampling_agrees_with_the_trainer_and_with_itself(build):
    model = build(q_lora_rank=16).cuda()
    groups = sample(model, PROMPTS, SEEDS, **SETTINGS)
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for one in group:
            with torch.no_grad():
                values = logprobs(model, torch.tensor([prompt + one.ids], device="cuda"))
            own = torch.tensor(one.logprobs)
            torch.testing.assert_close(own, values[0, len(prompt) - 1 :].cpu(), atol=1e-4, rtol=1e-4)
    assert ids(sample(model, PROMPTS, SEEDS, **SETTINGS, max_batch=4)) == ids(groups)
    assert ids(sample(model.cpu(), PROMPTS, SEEDS, **SETTINGS)) == ids(groups)


def test_sampling_in_bfloat16(build, tokenizer, tmp_path):
    checkpoint.save(tmp_path / "policy", build(vocab_size=tokenizer.vocab_size), tokenizer)
    model, _ = checkpoint.load(tmp_path / "policy", device="cuda", dtype=torch.bfloat16)
    (group,) = sample(model, [[5, 6, 7]], [[1, 2, 3]], **SETTINGS)
    for one in group:
        with torch.no_grad():
            values = logprobs(model, torch.tensor([[5, 6, 7, *one.ids]], device="cuda"))
        # Rounding moves single values, and now and then sends a token to another expert.
        difference = (torch.tensor(one.logprobs) - values[0, 2:].cpu()).abs()
        assert float(difference.median()) < 0.1


def test_training_under_autocast_learns(build):
    model = build(num_nextn_predict_layers=1, initializer_range=0.05).cuda().train()
    optimizer = adamw(model, lr=3e-3)
    tokens = TOKENS.cuda()
    losses = []
    for _ in range(60):
        with torch.autocast("cuda", torch.bfloat16):
            hidden, further = model.hidden_with_mtp(tokens)
            head = model.lm_head.weight
            main = token_logprobs(hidden[:, :-1].flatten(0, 1), head, tokens[:, 1:].flatten())[0]
            mtp = token_logprobs(further[:, :-1].flatten(0, 1), head, tokens[:, 2:].flatten())[0]
        loss = -main.mean() - 0.3 * mtp.mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        assert model.max_violation() > 0
        model.update_bias(1e-3)
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"top_p": 1.0}, {}, {"temperature": 0.7, "top_p": 1.0}])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"q_lora_rank": 16, "n_group": 4, "topk_group": 2, "n_shared_experts": 2, "kv_lora_rank": 20},
        {"first_k_dense_replace": 3},
        {"moe_intermediate_size": 96},
    ],
    ids=["plain", "groups", "dense", "wide"],
)
def test_samples_by_kernels_and_graphs_with_drafts_or_not_are_those_of_the_cpu(build, changes, settings):
    settings = {**SETTINGS, **settings}
    model = build(num_nextn_predict_layers=1, **changes)
    here = ids(sample(model, PROMPTS, SEEDS, **settings))
    there = model.cuda()
    for max_batch in (512, 4):
        assert ids(sample(there, PROMPTS, SEEDS, **settings, max_batch=max_batch)) == here
        assert ids(sample(there, PROMPTS, SEEDS, **settings, max_batch=max_batch, drafts=Drafts())) == here


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_log_probabilities_by_kernels_equal_the_plain_formula(dtype, tolerance):
    torch.manual_seed(0)
    hidden = torch.randn(3000, 64, device="cuda", dtype=dtype, requires_grad=True)
    head = (torch.randn(500, 64, device="cuda") * 0.2).to(dtype).requires_grad_()
    targets, weight = torch.randint(0, 500, (3000,), device="cuda"), torch.randn(3000, device="cuda")
    own, entropy = token_logprobs(hidden, head, targets, temperature=0.7, entropy=True)
    every = (hidden.double() @ head.double().t() / 0.7).log_softmax(-1)
    expected = every.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(own.double(), expected, atol=tolerance * 10, rtol=tolerance)
    spread = -(every.exp() * every).sum(-1)
    torch.testing.assert_close(entropy.double(), spread, atol=tolerance * 10, rtol=tolerance)
    assert not entropy.requires_grad
    for one, other in zip(
        torch.autograd.grad((own * weight).sum(), [hidden, head]),
        torch.autograd.grad((expected * weight).sum(), [hidden, head]),
        strict=True,
    ):
        assert float((one.float() - other.float()).norm() / other.float().norm()) < tolerance


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_second_gpu_captures_and_learns_as_the_first(build):
    model = build(num_nextn_predict_layers=1)
    hidden, head = torch.randn(300, 64), torch.randn(500, 64)
    found = []
    for device in ("cuda:0", "cuda:1"):
        with current(device):
            drawn = ids(sample(model.to(device), PROMPTS, SEEDS, **SETTINGS, drafts=Drafts()))
            own, _ = token_logprobs(hidden.to(device), head.to(device), torch.arange(300, device=device), entropy=True)
            found.append((drawn, own.tolist()))
    assert found[0] == found[1]
