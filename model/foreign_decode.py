"""A few tokens a row for models of transformers, over a cache of our own that rows enter and leave.

Keys and values of a token in a layer lie side by side as one entry of the latent cache, so that the board of
rows treats every model alike. The layers themselves are those of transformers, whatever they compute.

Shapes: B rows, T tokens, H heads of keys and values, L layers, K = H (key + value size), V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache, DynamicCache

from model.attention import LatentCache
from model.foreign import ForeignModel

FULL, SLIDING = "full_attention", "sliding_attention"


class Appending(Cache):
    """What transformers takes for its cache in one step: appends a token to every row of ours."""

    def __init__(self, cache: LatentCache, longest: int) -> None:
        super().__init__(layers=[])
        self.cache, self.longest = cache, longest

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        """(B, H, 1, size) each -> all keys and values (B, H, T, size) of the rows, the new ones among them."""
        self.cache.append(layer_idx, _side_by_side(key_states, value_states)[:, 0])
        kept = self.cache.data[layer_idx][: len(key_states), : self.longest]
        keys, values = kept.split([_width(key_states), _width(value_states)], -1)
        heads = key_states.shape[1]
        return keys.unflatten(-1, (heads, -1)).transpose(1, 2), values.unflatten(-1, (heads, -1)).transpose(1, 2)


class ForeignDecoder:
    """Decoding of a model of transformers, without gradient; logits are divided by `temperature`."""

    @torch.no_grad()
    def __init__(self, model: ForeignModel, temperature: float = 1.0) -> None:
        self.temperature, self.config = temperature, model.config
        self.backbone, self.head = model.inner.base_model, model.head
        self.device = self.head.device
        self.windows = attention_windows(self.config)
        one = torch.ones(1, dtype=torch.long, device=self.device)
        self.layers, _, _, self.width = self.prefill(one[None], one)[0].shape

    def rows_that_fit(self, tokens: int) -> int | None:
        """How many rows of so many tokens the device's memory has room for; None where that is not asked."""
        del tokens
        return None

    def new_cache(self, rows: int, tokens: int) -> LatentCache:
        """A cache without rows, for up to so many rows of so many tokens."""
        del rows, tokens
        data = self.head.new_zeros(self.layers, 0, 0, self.width)
        return LatentCache(data, torch.zeros(0, dtype=torch.long, device=self.device))

    def prefill(self, tokens_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Right-padded prompts -> their keys and values (L, B, T, K), and logits (B, V) at each row's last token."""
        kept = DynamicCache()
        hidden = self.backbone(input_ids=tokens_BT, past_key_values=kept, use_cache=True).last_hidden_state
        entries = torch.stack([_side_by_side(layer.keys, layer.values) for layer in kept.layers])
        last = hidden[torch.arange(len(hidden), device=self.device), lengths_B - 1]
        return entries, self._logits(last) / self.temperature

    def step(self, tokens_B: Tensor, cache: LatentCache, longest: int) -> Tensor:
        """Append one token to every row -> logits (B, V). No row is then longer than `longest`."""
        logits = self.forward(tokens_B, cache, longest)
        cache.advance()
        return logits / self.temperature

    def forward(self, tokens_B: Tensor, cache: LatentCache, longest: int) -> Tensor:
        """Logits (B, V) of `step`, at temperature 1; the token counts once the cache advances."""
        hidden = self.backbone(
            input_ids=tokens_B[:, None],
            position_ids=cache.lengths[:, None],
            attention_mask=self._mask(cache, longest),
            past_key_values=Appending(cache, longest),
            use_cache=True,
        ).last_hidden_state
        return self._logits(hidden[:, 0])

    def close(self) -> None:
        """The samples are made."""

    def _mask(self, cache: LatentCache, longest: int) -> Any:
        """(B, 1, 1, T) to add to scores, one for each kind of attention where layers differ in it."""
        full = cache.bias(longest)[:, None]
        masks = {
            kind: full if window is None else full.masked_fill(_before(cache.lengths, longest, window), -math.inf)
            for kind, window in self.windows.items()
        }
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _logits(self, hidden_BD: Tensor) -> Tensor:
        return F.linear(hidden_BD, self.head).float()


def foreign_decoder(model: ForeignModel, temperature: float) -> ForeignDecoder:
    """The decoder for the device that the model is on."""
    if model.head.is_cuda:
        from model.foreign_capture import on_gpu

        return on_gpu(model, temperature)
    return ForeignDecoder(model, temperature)


def attention_windows(config: Any) -> dict[str, int | None]:
    """Tokens that each kind of attention looks back, itself included; None for all.

    Raises ValueError for kinds of layers that are neither full nor sliding attention.
    """
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or [FULL if window is None else SLIDING])
    if other := kinds - {FULL, SLIDING}:
        raise ValueError(f"model_type {config.model_type!r} has layers of {min(other)}; sampled are {FULL}, {SLIDING}")
    return {kind: window if kind == SLIDING else None for kind in sorted(kinds)}


def _before(lengths_B: Tensor, longest: int, window: int) -> Tensor:
    """(B, 1, 1, T): the tokens that lie before the window of each row's next token."""
    places = torch.arange(longest, device=lengths_B.device)
    return (places <= lengths_B[:, None] - window)[:, None, None]


def _side_by_side(keys: Tensor, values: Tensor) -> Tensor:
    """(B, H, T, size) each -> (B, T, K)."""
    return torch.cat([keys.transpose(1, 2).flatten(2), values.transpose(1, 2).flatten(2)], -1)


def _width(states: Tensor) -> int:
    return states.shape[1] * states.shape[3]
