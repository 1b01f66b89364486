"""DeepSeekMoE: sigmoid gate with bias-only balancing, routed and shared experts (V3 report, eq. 12-20).

Shapes: N tokens, D hidden, E routed experts, S shared experts, I expert width, A experts per token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from model.config import ModelConfig
from model.draw import HAS_TRITON
from model.lean import ExpertsLayer, is_lean, residual, swiglu

WIDE_TOKENS = 128  # up to so many tokens, all experts in one product beat a product for each


class MLP(nn.Module):
    """SwiGLU: W_down (silu(W_gate x) * W_up x)."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class Gate(nn.Module):
    """Chooses experts by biased score and weighs them by unbiased score; always computed in float32.

    `e_score_correction_bias` (E,) is moved by `MoE.update_bias`, never by a gradient.
    """

    e_score_correction_bias: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Gate:
        """The bias moves with the module, but stays float32 whatever the module is cast to."""
        bias = self.e_score_correction_bias
        super()._apply(fn, recurse)
        if self.e_score_correction_bias.dtype != torch.float32:
            self.e_score_correction_bias = bias.to(self.e_score_correction_bias.device)
        return self

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores s (N, E), the chosen experts (N, A), and their weights g (N, A)."""
        with torch.autocast(x_ND.device.type, enabled=False):
            scores = F.linear(x_ND.float(), self.weight.float()).sigmoid()
        chosen, weights = choose_experts(scores, self.e_score_correction_bias, self.config)
        return scores, chosen, weights


def choose_experts(scores_NE: Tensor, bias_E: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Top-A experts of the best groups, and their weights: both (N, A) (eq. 13-16; groups: section 2.1.2).

    A group's score is the sum of its two best biased scores; experts of groups not kept are masked with -inf.
    """
    biased = scores_NE.detach() + bias_E
    if biased.is_cuda and can_route(config):
        from model import kernels

        chosen = kernels.choose(biased, config)
    else:
        chosen = _best_experts(biased, config)
    weights = scores_NE.gather(1, chosen)
    if config.norm_topk_prob:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return chosen, weights * config.routed_scaling_factor


def can_route(config: ModelConfig) -> bool:
    """Whether there are kernels for the gate: they hold experts and groups, a power of two of each."""
    return HAS_TRITON and all(count & (count - 1) == 0 for count in (config.n_routed_experts, config.n_group))


def _best_experts(biased: Tensor, config: ModelConfig) -> Tensor:
    if config.topk_group < config.n_group:
        grouped = biased.unflatten(-1, (config.n_group, -1))
        group_scores = grouped.topk(2, dim=-1).values.sum(-1)
        kept = group_scores.topk(config.topk_group, dim=-1, sorted=False).indices
        dropped = torch.ones_like(group_scores, dtype=torch.bool).scatter_(1, kept, False)
        biased = grouped.masked_fill(dropped[..., None], float("-inf")).flatten(1)
    return biased.topk(config.num_experts_per_tok, dim=-1, sorted=False).indices


class Experts(nn.Module):
    """Routed experts with stacked weights: `gate_up_proj` (E, 2 I, D) and `down_proj` (E, D, I)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, hidden, width = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * width, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, width))
        self.narrow = experts * width <= 8 * hidden  # all experts together are no wider than two dense layers

    def forward(self, x_ND: Tensor, chosen_NA: Tensor, weights_NA: Tensor) -> Tensor:
        wide = x_ND.shape[0] <= WIDE_TOKENS and self.narrow
        return (self.dense if wide else self.grouped)(x_ND, chosen_NA, weights_NA)

    def dense(self, x_ND: Tensor, chosen_NA: Tensor, weights_NA: Tensor) -> Tensor:
        """All experts for all tokens as one wide SwiGLU, masked by the weights."""
        experts = self.down_proj.shape[0]
        weights_NE = weights_NA.new_zeros(x_ND.shape[0], experts).scatter(1, chosen_NA, weights_NA)
        gate, up = F.linear(x_ND, self.gate_up_proj.flatten(0, 1)).unflatten(-1, (experts, 2, -1)).unbind(2)
        h = (F.silu(gate) * up * weights_NE[..., None].to(gate.dtype)).flatten(1)
        return h @ self.down_proj.transpose(1, 2).flatten(0, 1).to(h.dtype)

    def grouped(self, x_ND: Tensor, chosen_NA: Tensor, weights_NA: Tensor) -> Tensor:
        """Tokens sorted by expert, one product for each expert's segment."""
        tokens, active = chosen_NA.shape
        flat = chosen_NA.flatten()
        order = flat.argsort(stable=True)
        place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        counts = _count(chosen_NA, self.down_proj.shape[0])
        if is_lean(x_ND):
            weights = self.gate_up_proj, self.down_proj
            return ExpertsLayer.apply(x_ND, weights_NA, *weights, order, place, counts.tolist())
        if self._has_grouped_mm(x_ND):
            sorted_ND = _Moved.apply(x_ND, order, place, active)
            y_NAD = _Moved.apply(self._grouped_mm(sorted_ND, counts), place, order, 1).unflatten(0, (tokens, active))
        else:
            sorted_ND = x_ND.index_select(0, order.div(active, rounding_mode="floor"))
            y_NAD = self._loop(sorted_ND, counts).index_select(0, place).unflatten(0, (tokens, active))
        return (y_NAD * weights_NA[..., None].to(y_NAD.dtype)).sum(1)

    def _loop(self, sorted_ND: Tensor, counts_E: Tensor) -> Tensor:
        segments = sorted_ND.split(counts_E.tolist())
        out = []
        for x, gate_up, down in zip(segments, self.gate_up_proj.unbind(), self.down_proj.unbind(), strict=True):
            gate, up = F.linear(x, gate_up).chunk(2, -1)
            out.append(F.linear(F.silu(gate) * up, down))
        return torch.cat(out)

    def _grouped_mm(self, sorted_ND: Tensor, counts_E: Tensor) -> Tensor:
        ends = counts_E.cumsum(0).to(torch.int32)
        kind = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else sorted_ND.dtype
        gate_up = F.grouped_mm(sorted_ND.to(kind), self.gate_up_proj.to(kind).transpose(1, 2), offs=ends)
        gate, up = gate_up.chunk(2, -1)
        return F.grouped_mm(F.silu(gate) * up, self.down_proj.to(kind).transpose(1, 2), offs=ends)

    def _has_grouped_mm(self, x_ND: Tensor) -> bool:
        """The kernel is there on CUDA, for rows of a multiple of 16 bytes."""
        if x_ND.device.type != "cuda" or not hasattr(F, "grouped_mm"):
            return False
        return self.down_proj.shape[1] % 8 == 0 and self.down_proj.shape[2] % 8 == 0


def _count(chosen_NA: Tensor, experts: int, mask_N1: Tensor | None = None) -> Tensor:
    """Tokens (E,) sent to each expert, those outside the mask not counted."""
    if chosen_NA.is_cuda:  # a comparison with each expert; atomic additions to so few places would queue up
        sent = chosen_NA.flatten()[:, None] == torch.arange(experts, device=chosen_NA.device)
        return (sent if mask_N1 is None else sent & mask_N1.expand_as(chosen_NA).reshape(-1, 1)).sum(0)
    valid = torch.ones_like(chosen_NA)
    if mask_N1 is not None:
        valid = valid * mask_N1.long()
    return chosen_NA.new_zeros(experts).scatter_add_(0, chosen_NA.flatten(), valid.flatten())


class _Moved(torch.autograd.Function):
    """Row i of the result is row index[i] // times of x; the gradient is gathered too, by the inverse.

    An `index_select` would have its gradient added up by atomic writes, at several times the cost on a GPU.
    """

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, index: Tensor, inverse: Tensor, times: int) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.times = times
        return x_ND.index_select(0, index.div(times, rounding_mode="floor") if times > 1 else index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (inverse,) = ctx.saved_tensors
        back = grad.index_select(0, inverse)
        return back.unflatten(0, (-1, ctx.times)).sum(1) if ctx.times > 1 else back, None, None, None


class WideFeedForward:
    """Fused weights of a feed-forward and the norm before it, for decoding: gate and experts in one product.

    Shared experts count as experts of weight one. A dense MLP is the case of no gate.
    """

    def __init__(self, mlp: MLP | MoE, norm: nn.RMSNorm) -> None:
        self.eps = norm.eps
        self.gate = mlp.gate if isinstance(mlp, MoE) else None
        router = [] if self.gate is None else [self.gate.weight]
        self.routed = sum(len(weight) for weight in router)
        gates, ups, downs = zip(*expert_weights(mlp), strict=True)
        self.first = torch.cat([*router, *gates, *ups]) * norm.weight
        self.down = torch.cat([down.t() for down in downs])

    def step(self, x_BD: Tensor) -> Tensor:
        """Residual stream (B, D) before the feed-forward -> the same after it."""
        y = F.linear(F.rms_norm(x_BD, x_BD.shape[-1:], eps=self.eps), self.first)
        gate, up = y[:, self.routed :].chunk(2, -1)
        h = F.silu(gate).mul_(up)
        if self.gate is not None:
            weights = _all_weights(y[:, : self.routed].sigmoid(), self.gate)
            h = h.unflatten(-1, (weights.shape[1], -1)).mul_(weights[..., None]).flatten(1)
        return torch.addmm(x_BD, h, self.down)


def _all_weights(scores_BE: Tensor, gate: Gate) -> Tensor:
    """(B, E + S): the gate's weights where chosen, 0 elsewhere, 1 for shared experts."""
    rows, routed = scores_BE.shape
    chosen, weights = choose_experts(scores_BE, gate.e_score_correction_bias, gate.config)
    full = scores_BE.new_zeros(rows, routed + gate.config.n_shared_experts)
    full[:, routed:] = 1.0
    return full.scatter_(1, chosen, weights)


def expert_weights(mlp: MLP | MoE) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Gate (I, D), up (I, D), down (D, I) of each expert, shared ones last; a dense MLP is one expert."""
    if isinstance(mlp, MLP):
        return [(mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight)]
    pairs = zip(mlp.experts.gate_up_proj, mlp.experts.down_proj, strict=True)
    routed = [(*gate_up.chunk(2), down) for gate_up, down in pairs]
    return routed + (expert_weights(mlp.shared_experts) if mlp.shared_experts else [])


class MoE(nn.Module):
    """Shared experts for every token plus the routed ones that the gate chooses (eq. 12).

    In training mode `load` (E,) counts the tokens sent to each expert until `update_bias` resets it.
    """

    load: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Gate(config)
        self.experts = Experts(config)
        shared = config.moe_intermediate_size * config.n_shared_experts
        self.shared_experts = MLP(config.hidden_size, shared) if shared else None
        self.register_buffer("load", torch.zeros(config.n_routed_experts, dtype=torch.long), persistent=False)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor | None = None, routing: list[Tensor] | None = None) -> Tensor:
        """(B, T, D) -> the same. Tokens outside `mask_BT` do not count as load; `routing` gets (B, T, E)."""
        x_ND = x_BTD.flatten(0, -2)
        scores, chosen, weights = self.gate(x_ND)
        if self.training:
            self._count(chosen, mask_BT)
        if routing is not None:
            routing.append(scores.unflatten(0, x_BTD.shape[:-1]))
        out = self.experts(x_ND, chosen, weights).view_as(x_BTD)
        return residual(out, self.shared_experts(x_BTD)) if self.shared_experts else out

    @torch.no_grad()
    def _count(self, chosen_NA: Tensor, mask_BT: Tensor | None) -> None:
        self.load += _count(chosen_NA, len(self.load), None if mask_BT is None else mask_BT.reshape(-1, 1))

    def gather_load(self) -> None:
        """Make the load that of the whole batch, where several ranks have each counted their part."""
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(self.load)

    def max_violation(self) -> Tensor:
        """MaxVio of the accumulated load: (max - mean) / mean, 0 if balanced or without load (2408.15664)."""
        load = self.load.double()
        return (load.max() - load.mean()) / load.mean().clamp(min=1e-9)

    @torch.no_grad()
    def update_bias(self, gamma: float) -> None:
        """b_i += gamma sign(mean load - load_i), then forget the load (2408.15664, algorithm 1).

        Where there are several ranks, `gather_load` goes before, so that all move their bias alike.
        """
        load = self.load.double()
        self.gate.e_score_correction_bias += gamma * torch.sign(load.mean() - load).float()
        self.load.zero_()


def balance_loss(
    routing: Sequence[Tensor], experts_per_token: int, alpha: float, mask_BT: Tensor | None = None
) -> Tensor:
    """Sequence-wise balance loss (eq. 17-20): alpha sum_i f_i P_i, mean over sequences, summed over layers.

    `routing` holds the scores (B, T, E) of each MoE layer; the choice is made on unbiased scores, as printed.
    """
    total = routing[0].new_zeros(())
    for scores in routing:
        experts = scores.shape[-1]
        valid = scores.new_ones(scores.shape[:2]) if mask_BT is None else mask_BT.to(scores.dtype)
        length = valid.sum(1, keepdim=True).clamp(min=1)
        top = scores.detach().topk(experts_per_token, -1).indices
        chosen = torch.zeros_like(scores).scatter_(-1, top, 1.0) * valid[..., None]
        f_BE = chosen.sum(1) * experts / (experts_per_token * length)
        p_BE = (scores / scores.sum(-1, keepdim=True) * valid[..., None]).sum(1) / length
        total = total + alpha * (f_BE * p_BE).sum(-1).mean()
    return total
