from __future__ import annotations

import pytest
import torch

from model.config import ModelConfig
from model.moe import MoE, WideFeedForward, balance_loss, choose_experts
from tests.model.conftest import TINY


@pytest.fixture
def moe(tiny):
    torch.manual_seed(0)
    layer = MoE(tiny(n_shared_experts=2))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.3)
        layer.gate.e_score_correction_bias.normal_(0, 0.2)
    return layer


def test_dense_grouped_and_token_by_token_experts_are_equal(moe):
    x = torch.randn(33, 32)
    _, chosen, weights = moe.gate(x)
    expected = torch.zeros_like(x)
    for token in range(33):
        for expert, weight in zip(chosen[token], weights[token], strict=True):
            gate, up = (moe.experts.gate_up_proj[expert] @ x[token]).chunk(2)
            h = torch.nn.functional.silu(gate) * up
            expected[token] += weight * (moe.experts.down_proj[expert] @ h)
    torch.testing.assert_close(moe.experts.dense(x, chosen, weights), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(moe.experts.grouped(x, chosen, weights), expected, atol=1e-5, rtol=1e-4)


def test_dense_and_grouped_experts_have_equal_gradients(moe):
    x, weight = torch.randn(33, 32), torch.randn(33, 32)
    gradients = []
    for form in (moe.experts.dense, moe.experts.grouped):
        own = x.clone().requires_grad_()
        _, chosen, weights = moe.gate(own)
        parameters = [own, moe.gate.weight, *moe.experts.parameters()]
        gradients.append(torch.autograd.grad((form(own, chosen, weights) * weight).sum(), parameters))
    for dense, grouped in zip(*gradients, strict=True):
        torch.testing.assert_close(dense, grouped, atol=1e-5, rtol=1e-4)


def test_an_expert_without_tokens_is_no_trouble(moe):
    x = torch.randn(200, 32)
    chosen = torch.tensor([[0, 3]]).expand(200, -1)
    weights = torch.full((200, 2), 0.5)
    dense, grouped = moe.experts.dense(x, chosen, weights), moe.experts.grouped(x, chosen, weights)
    torch.testing.assert_close(dense, grouped, atol=1e-5, rtol=1e-4)


def test_the_fused_feed_forward_of_decoding_equals_the_layer(moe):
    norm = torch.nn.RMSNorm(32, 1e-6)
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    x = torch.randn(5, 32)
    with torch.no_grad():
        torch.testing.assert_close(WideFeedForward(moe, norm).step(x), x + moe(norm(x)), atol=1e-5, rtol=1e-4)


def test_bias_chooses_but_does_not_weigh(tiny):
    scores = torch.tensor([[0.9, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1]])
    bias = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 5.0])
    chosen, weights = choose_experts(scores, bias, tiny(routed_scaling_factor=2.5))
    by_expert = dict(zip(chosen[0].tolist(), weights[0].tolist(), strict=True))
    assert by_expert == pytest.approx({7: 2.5 * 0.1, 0: 2.5 * 0.9})


def test_groups_are_chosen_by_their_two_best_experts(tiny):
    # Group sums of two: 1.0, 1.1, 0.9, 0.2; the best single expert, 0, stands in a group that loses.
    scores = torch.tensor([[0.95, 0.05, 0.6, 0.5, 0.45, 0.45, 0.1, 0.1]])
    one = tiny(n_group=4, topk_group=1)
    assert sorted(choose_experts(scores, torch.zeros(8), one)[0][0].tolist()) == [2, 3]
    two = tiny(n_group=4, topk_group=2)
    assert sorted(choose_experts(scores, torch.zeros(8), two)[0][0].tolist()) == [0, 2]


def test_masked_groups_lose_even_to_negative_scores(tiny):
    scores = torch.full((1, 8), 0.5)
    bias = torch.tensor([-3.0, -3.0, -9.0, -9.0, -9.0, -9.0, -9.0, -9.0])
    chosen, _ = choose_experts(scores, bias, tiny(n_group=4, topk_group=1))
    assert sorted(chosen[0].tolist()) == [0, 1]


def test_load_counts_valid_tokens_in_training_only(moe):
    x = torch.randn(2, 6, 32)
    mask = torch.tensor([[True] * 6, [True, True, False, False, False, False]])
    moe.eval()(x, mask)
    assert moe.load.sum() == 0
    moe.train()(x, mask)
    _, chosen, _ = moe.gate(x[mask])
    assert moe.load.tolist() == torch.bincount(chosen.flatten(), minlength=8).tolist()
    moe(x)
    assert moe.load.sum() == 2 * (8 + 12)


def test_bias_update_follows_the_sign_of_the_violation(moe):
    before = {name: tensor.clone() for name, tensor in moe.state_dict().items()}
    moe.load.copy_(torch.tensor([9, 1, 5, 5, 5, 5, 5, 5]))
    assert float(moe.max_violation()) == pytest.approx(0.8)
    moe.update_bias(0.001)
    change = moe.gate.e_score_correction_bias - before.pop("gate.e_score_correction_bias")
    expected = torch.tensor([-0.001, 0.001, 0, 0, 0, 0, 0, 0])
    torch.testing.assert_close(change, expected, atol=1e-7, rtol=0)
    assert all(torch.equal(moe.state_dict()[name], tensor) for name, tensor in before.items())
    assert moe.load.sum() == 0


def test_the_bias_has_no_gradient_and_stays_float32(moe):
    moe(torch.randn(1, 300, 32)).sum().backward()
    assert moe.gate.weight.grad.abs().sum() > 0
    assert moe.gate.e_score_correction_bias.grad is None
    bias = moe.gate.e_score_correction_bias.clone()
    moe.to(torch.bfloat16)
    assert moe.gate.weight.dtype == torch.bfloat16
    assert torch.equal(moe.gate.e_score_correction_bias, bias)


def test_updates_balance_a_skewed_gate(tiny):
    torch.manual_seed(0)
    layer = MoE(tiny()).train()
    x = torch.randn(1, 512, 32) + 1.0
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.1)
        violations = []
        for _ in range(200):
            layer(x)
            violations.append(float(layer.max_violation()))
            layer.update_bias(0.005)
    assert violations[0] > 1.0
    assert violations[-1] < 0.2


def test_balance_loss_as_printed():
    # Two tokens, four experts, one active: f = 4/(1*2) * counts, P = mean of normalised scores.
    scores = torch.tensor([[[0.6, 0.2, 0.1, 0.1], [0.4, 0.2, 0.2, 0.2]]])
    assert float(balance_loss([scores], 1, 0.5)) == pytest.approx(0.5 * 4 * 0.5)
    spread = torch.tensor([[[0.6, 0.2, 0.1, 0.1], [0.2, 0.4, 0.2, 0.2]]])
    expected = 0.5 * (2 * (0.6 + 0.2) / 2 + 2 * (0.2 + 0.4) / 2)
    assert float(balance_loss([spread], 1, 0.5)) == pytest.approx(expected)
    assert float(balance_loss([spread, scores], 1, 0.5)) == pytest.approx(expected + 1.0)


def test_balance_loss_leaves_padding_out():
    scores = torch.rand(2, 5, 8)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    separate = [balance_loss([scores[:1]], 2, 1.0), balance_loss([scores[1:, :3]], 2, 1.0)]
    assert float(balance_loss([scores], 2, 1.0, mask)) == pytest.approx(float(sum(separate)) / 2, rel=1e-5)


def balance_on_rank(rank, address, results):
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.manual_seed(0)
    layer = MoE(ModelConfig(**TINY))
    layer.load.copy_(torch.tensor([[8, 0, 2, 2, 2, 2, 2, 2], [0, 3, 2, 2, 2, 2, 2, 9]][rank]))
    layer.gather_load()
    violation = float(layer.max_violation())
    layer.update_bias(0.01)
    results.put((violation, layer.gate.e_score_correction_bias.tolist()))
    torch.distributed.destroy_process_group()


def test_two_ranks_move_the_bias_by_the_load_of_both(tmp_path):
    """The load of both is 8, 3, 4, 4, 4, 4, 4, 11 about a mean of 5.25."""
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    address = (tmp_path / "meeting").as_uri()
    ranks = [context.Process(target=balance_on_rank, args=(rank, address, results)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    (violation, bias), other = results.get(timeout=100), results.get(timeout=100)
    for rank in ranks:
        rank.join()
    assert (violation, bias) == other
    assert violation == pytest.approx(11 / 5.25 - 1)
    assert bias == pytest.approx([-0.01, *[0.01] * 6, -0.01])
