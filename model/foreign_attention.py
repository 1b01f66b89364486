"""Attention of one token a row where several query heads share a head of keys and values.

Some versions of transformers copy keys and values for every query head as soon as there is a mask, which is most of
a decoding step's memory traffic. Here the query heads of a group stand side by side as queries of their shared
head, and nothing is copied. All else is transformers' own `sdpa`.

Shapes: B rows, H query heads, G heads of keys and values, T tokens, D head size.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SDPA, PACKED = "sdpa", "r1_packed_sdpa"
OTHERWISE = ("softcap", "position_bias", "s_aux", "cache")
"""What some models hand to attention beside its tensors; it is left to transformers."""


def packed(
    module: nn.Module, query_BH1D: Tensor, key_BGTD: Tensor, value_BGTD: Tensor, attention_mask: Tensor | None,
    **settings: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """As `sdpa` of transformers: (B, 1, H, D) for one query a row, to a mask (B, 1, 1, T) that is added."""
    rows, heads, queries, _ = query_BH1D.shape
    shared = key_BGTD.shape[1]
    if queries > 1 or heads == shared or any(settings.get(name) is not None for name in OTHERWISE):
        told: tuple[Tensor, None] = sdpa_attention_forward(
            module, query_BH1D, key_BGTD, value_BGTD, attention_mask, **settings
        )
        return told
    side_by_side = query_BH1D.reshape(rows, shared, heads // shared, -1)
    found = F.scaled_dot_product_attention(
        side_by_side, key_BGTD, value_BGTD, attn_mask=attention_mask, scale=settings.get("scaling")
    )
    return found.reshape(rows, 1, heads, -1), None


def pack_heads(inner: Any) -> None:
    """Let a model of transformers whose attention is `sdpa` attend so."""
    if inner.config._attn_implementation == SDPA:
        inner.set_attn_implementation(PACKED)


AttentionInterface.register(PACKED, packed)
AttentionMaskInterface.register(PACKED, sdpa_mask)
