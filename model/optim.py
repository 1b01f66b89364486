"""AdamW with the usual parameter groups, and learning-rate schedules as pure functions of the step."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

Schedule = Literal["constant", "cosine", "linear"]


def adamw(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.95),
    fused: bool = True,
) -> torch.optim.AdamW:
    """AdamW over all trainable parameters; norms and other vectors do not decay. Betas of the V3 report."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=fused)


def schedule(
    step: int,
    max_steps: int,
    peak: float,
    final: float = 0.0,
    warmup: int = 0,
    kind: Schedule = "cosine",
    decay: float = 0.3,
) -> float:
    """Learning rate of step 0 to max_steps - 1.

    It rises linearly to `peak` over `warmup` steps. Then `constant` stays, `cosine` falls to `final` along
    half a cosine, and `linear` stays, then falls to `final` along a line over the last `decay` of all steps.
    Raises ValueError for another kind.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if kind == "constant":
        return peak
    if kind == "cosine":
        done = (step - warmup) / max(1, max_steps - 1 - warmup)
        return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    if kind == "linear":
        falling = max(1.0, decay * max_steps)
        left = (max_steps - 1 - step) / falling
        return final + (peak - final) * min(1.0, max(0.0, left))
    raise ValueError(f"schedule must be constant, cosine or linear, got {kind!r}")
