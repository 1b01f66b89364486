"""GRPO's formulas as pure functions of tensors (DeepSeek-R1 eq. 1-3, token by token as in DeepSeekMath).

Shapes: N groups, G completions of one question, B completions, T tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

LossType = Literal["grpo", "dapo", "dr_grpo"]
Scale = Literal["group", "batch", "none"]


def advantages(rewards_NG: Tensor, scale_rewards: Scale = "group") -> Tensor:
    """Advantages (N, G): rewards centred on their group and divided by a sample standard deviation + 1e-4."""
    centred = rewards_NG - rewards_NG.mean(dim=1, keepdim=True)
    if scale_rewards == "none":
        return centred
    spread = rewards_NG.std(dim=1, keepdim=True) if scale_rewards == "group" else rewards_NG.std()
    return centred / (spread + 1e-4)


def token_objective(
    logp_BT: Tensor,
    old_logp_BT: Tensor,
    ref_logp_BT: Tensor | None,
    advantage_B1: Tensor,
    *,
    beta: float,
    epsilon: float,
    epsilon_high: float | None = None,
) -> Tensor:
    """The objective of each token (B, T), to be maximised; without a reference or beta there is no KL term."""
    ratio = (logp_BT - old_logp_BT).exp()
    clipped = ratio.clamp(1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high))
    objective = torch.minimum(ratio * advantage_B1, clipped * advantage_B1)
    if ref_logp_BT is None or beta == 0:
        return objective
    return objective - beta * k3(logp_BT, ref_logp_BT)


def k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Schulman's estimate of KL(pi || pi_ref) from samples of pi: unbiased and never negative."""
    delta = ref_logp - logp
    return delta.exp() - delta - 1


def token_weights(
    mask_BT: Tensor, loss_type: LossType, *, tokens: int, completions: int, max_completion_length: int
) -> Tensor:
    """Weights (B, T) by which the objective, summed over a whole minibatch, is the mean that `loss_type` names.

    `tokens` and `completions` count the whole minibatch, of which the mask may hold only a part.
    """
    if loss_type == "dapo":
        return mask_BT / max(tokens, 1)
    if loss_type == "grpo":
        return mask_BT / (mask_BT.sum(dim=1, keepdim=True).clamp(min=1) * completions)
    return mask_BT / (completions * max_completion_length)


def clipped(
    logp_BT: Tensor, old_logp_BT: Tensor, advantage_B1: Tensor, epsilon: float, epsilon_high: float | None = None
) -> tuple[Tensor, Tensor]:
    """Where (B, T) the clip acts: below on a bad completion's tokens, above on a good one's."""
    ratio = (logp_BT - old_logp_BT).exp()
    high = epsilon if epsilon_high is None else epsilon_high
    return (ratio < 1 - epsilon) & (advantage_B1 < 0), (ratio > 1 + high) & (advantage_B1 > 0)
