"""GRPO's formulas on a 2 x 2 group, each number worked out beside it in plain Python."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.objective import advantages, clipped, k3, token_objective, token_weights

REWARDS = [[2.0, 0.0], [1.0, 0.5]]


def test_advantages_by_hand() -> None:
    # Two numbers a distance d apart have the sample standard deviation d / sqrt(2).
    first, second = 1 / (2 / math.sqrt(2) + 1e-4), 0.25 / (0.5 / math.sqrt(2) + 1e-4)
    expected = torch.tensor([[first, -first], [second, -second]])
    torch.testing.assert_close(advantages(torch.tensor(REWARDS)), expected)
    torch.testing.assert_close(advantages(torch.tensor(REWARDS), "none"), torch.tensor([[1, -1], [0.25, -0.25]]))
    # Over the batch: mean 0.875, squares 1.265625 + 0.765625 + 0.015625 + 0.140625, divided by 3.
    spread = math.sqrt(2.1875 / 3) + 1e-4
    expected = torch.tensor([[1, -1], [0.25, -0.25]]) / spread
    torch.testing.assert_close(advantages(torch.tensor(REWARDS), "batch"), expected)


def test_a_group_of_equal_rewards_has_no_advantage() -> None:
    assert advantages(torch.tensor([[1.0, 1.0], [0.0, 3.0]]))[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("ratio", "advantage", "epsilon", "epsilon_high", "expected"),
    [
        (1.5, 2.0, 0.2, None, 1.2 * 2.0),  # a good token has had its push
        (0.5, 2.0, 0.2, None, 0.5 * 2.0),  # a good token that became less likely is not held back
        (1.5, -2.0, 0.2, None, 1.5 * -2.0),  # a bad token that became likelier is pushed in full
        (0.5, -2.0, 0.2, None, 0.8 * -2.0),  # a bad token has had its push
        (1.5, 2.0, 0.2, 0.3, 1.3 * 2.0),
        (0.5, -2.0, 0.2, 0.3, 0.8 * -2.0),
        (10.5, 2.0, 10.0, None, 10.5 * 2.0),  # the paper's epsilon: nothing up to eleven times
        (12.0, 2.0, 10.0, None, 11.0 * 2.0),
        (0.001, -2.0, 10.0, None, 0.001 * -2.0),  # and never from below, where the bound is -9
    ],
)
def test_the_clip_in_both_directions(
    ratio: float, advantage: float, epsilon: float, epsilon_high: float | None, expected: float
) -> None:
    old, gain = torch.tensor([[-2.0]]), torch.tensor([[advantage]])
    logp = old + math.log(ratio)
    found = token_objective(logp, old, None, gain, beta=0.0, epsilon=epsilon, epsilon_high=epsilon_high)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    low, high = clipped(logp, old, gain, epsilon, epsilon_high)
    limit = epsilon if epsilon_high is None else epsilon_high
    assert low.item() == (advantage < 0 and ratio < 1 - epsilon)
    assert high.item() == (advantage > 0 and ratio > 1 + limit)


def test_a_clipped_token_has_no_gradient_and_the_others_have() -> None:
    old = torch.tensor([[0.0, 0.0]])
    logp = torch.tensor([[math.log(1.5), math.log(1.1)]], requires_grad=True)
    token_objective(logp, old, None, torch.tensor([[2.0]]), beta=0.0, epsilon=0.2).sum().backward()
    assert logp.grad is not None
    assert logp.grad.tolist() == [[0.0, pytest.approx(1.1 * 2.0)]]


def test_k3_is_schulmans_estimate() -> None:
    logp, ref = [-1.0, -0.5, -3.0], [-1.5, -0.5, -0.2]
    expected = [math.exp(r - p) - (r - p) - 1 for p, r in zip(logp, ref, strict=True)]
    torch.testing.assert_close(k3(torch.tensor(logp), torch.tensor(ref)), torch.tensor(expected))
    assert expected[1] == 0
    assert min(expected) >= 0


def test_the_kl_term_is_within_the_objective() -> None:
    logp, old, ref = torch.tensor([[-1.0]]), torch.tensor([[-1.2]]), torch.tensor([[-1.5]])
    found = token_objective(logp, old, ref, torch.tensor([[0.5]]), beta=0.1, epsilon=0.3)
    ratio, kl = math.exp(0.2), math.exp(-0.5) + 0.5 - 1
    assert found.item() == pytest.approx(ratio * 0.5 - 0.1 * kl, rel=1e-6)


def test_weights_make_each_loss_the_mean_that_it_names() -> None:
    mask = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    whole = {"tokens": 3, "completions": 2, "max_completion_length": 10}
    for loss_type, rows in (
        ("dapo", [[1 / 3, 1 / 3, 0], [0, 1 / 3, 0]]),  # every token alike
        ("grpo", [[1 / 4, 1 / 4, 0], [0, 1 / 2, 0]]),  # every completion alike
        ("dr_grpo", [[1 / 20, 1 / 20, 0], [0, 1 / 20, 0]]),  # by a constant
    ):
        torch.testing.assert_close(token_weights(mask, loss_type, **whole), torch.tensor(rows))
        parts = [token_weights(row, loss_type, **whole) for row in mask.split(1)]
        torch.testing.assert_close(torch.cat(parts), torch.tensor(rows))
