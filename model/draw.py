"""Which token a distribution gives at a quantile, and the quantile of each sample's each place.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

SORTED_ROWS = 64  # rows up to which a GPU sorts all tokens, which is less than a question to the CPU costs
CANDIDATES = 64  # a nucleus is sought among so many best tokens before the whole vocabulary is sorted
HAS_TRITON = find_spec("triton") is not None


def draw(logits_BV: Tensor, chance_B: Tensor, greedy: bool, top_p: float) -> tuple[Tensor, Tensor]:
    """One token a row, at quantile `chance` of softmax(logits) cut to its nucleus; its log-probability uncut.

    The nucleus is the fewest most likely tokens that together have at least `top_p` (1904.09751).
    """
    if logits_BV.is_cuda and HAS_TRITON and (greedy or top_p == 1):
        from model import kernels

        return kernels.draw(logits_BV, chance_B, greedy)
    probs = logits_BV.softmax(-1, dtype=torch.float32)
    if greedy:
        best, ids = probs.max(-1)
        return ids, best.log()
    nucleus = top_p < 1
    ids = _draw_nucleus(probs, chance_B, top_p) if nucleus else _quantile(probs.cumsum(-1), chance_B)
    return ids, probs.gather(1, ids[:, None])[:, 0].log()


def can_be_captured(rows: int, top_p: float) -> bool:
    """Whether a GPU draws so many rows without asking the CPU which of them have a wide nucleus."""
    return top_p == 1 or rows <= SORTED_ROWS


def _draw_nucleus(probs_BV: Tensor, chance_B: Tensor, top_p: float) -> Tensor:
    """Most likely tokens first; only rows with a wide nucleus have all their tokens sorted."""
    vocabulary = probs_BV.shape[1]
    if probs_BV.is_cuda and can_be_captured(len(probs_BV), top_p):
        return _nucleus_quantile(*probs_BV.sort(-1, descending=True), chance_B, top_p)
    best, order = probs_BV.topk(min(CANDIDATES, vocabulary), -1)
    ids = _nucleus_quantile(best, order, chance_B, top_p)
    wide = (best.sum(-1) < top_p).nonzero().flatten()
    if len(wide) and vocabulary > CANDIDATES:
        ids[wide] = _nucleus_quantile(*probs_BV[wide].sort(-1, descending=True), chance_B[wide], top_p)
    return ids


def _nucleus_quantile(best: Tensor, order: Tensor, chance_B: Tensor, top_p: float) -> Tensor:
    total = best.cumsum(-1)
    last = (total < top_p).sum(-1, keepdim=True).clamp(max=total.shape[1] - 1)
    return order.gather(1, _quantile(total, chance_B, total.gather(1, last)[:, 0])[:, None])[:, 0]


def _quantile(total_BV: Tensor, chance_B: Tensor, mass_B: Tensor | None = None) -> Tensor:
    """Index of the first running total beyond chance x mass."""
    mass = total_BV[:, -1] if mass_B is None else mass_B
    found = torch.searchsorted(total_BV, (chance_B * mass)[:, None], right=True)[:, 0]
    return found.clamp_(max=total_BV.shape[1] - 1)


def uniform(seed: Tensor, place: Tensor) -> Tensor:
    """Float32 in [0, 1) with 24 random bits, from int64 seed and place alone (SplitMix64's finaliser)."""
    bits = _mix(_mix(seed) + place * _GOLDEN)
    return ((bits >> 40) & 0xFFFFFF).float() * 2.0**-24


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


_GOLDEN = -0x61C8864680B583EB  # 2^64 / golden ratio, as int64
