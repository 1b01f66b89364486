"""A few tokens a row: prefill of prompts, then steps over a latent cache with weights fused for the purpose.

Shapes: B rows, W tokens a row, Q = B W, T tokens, D hidden, L layers, K cached values per token, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from model.attention import AbsorbedMLA, LatentCache
from model.moe import MoE, WideFeedForward
from model.transformer import Block, MTPLayer, Transformer


class Layer(Protocol):
    """One block, for decoding: residual stream (Q, D) -> the same after it; appends to the cache."""

    def __call__(
        self, x_QD: Tensor, rotation_QR: Tensor, cache: LatentCache, number: int, bias_BWT: Tensor
    ) -> Tensor: ...


class Decoder:
    """Fused weights of a policy for decoding, without gradient; after an update of the policy make a new one.

    Logits are divided by `temperature`, which is folded into the head. With `drafts`, the multi-token layer
    is there too: the last layer of the cache is its own.
    """

    @torch.no_grad()
    def __init__(self, model: Transformer, temperature: float = 1.0, drafts: bool = False) -> None:
        self.model, self.config = model, model.config
        backbone = model.model
        self.layers = [self._layer(block) for block in backbone.blocks]
        self.drafting = self._layer(backbone.mtp) if drafts and backbone.mtp is not None else None
        self.head = model.lm_head.weight / temperature
        self.final = self.head * backbone.norm.weight
        self.device = self.head.device

    def _layer(self, block: Block) -> Layer:
        attention, feed_forward = AbsorbedMLA(block.self_attn, block.input_layernorm), _feed_forward(block)
        return lambda x, *rest: feed_forward(attention.step(x, *rest))

    def rows_that_fit(self, tokens: int) -> int | None:
        """How many rows of so many tokens the device's memory has room for; None where that is not asked."""
        del tokens
        return None

    def new_cache(self, rows: int, tokens: int) -> LatentCache:
        """A cache without rows, for up to so many rows of so many tokens."""
        del rows, tokens
        return LatentCache.empty(self.config, self.head, further=int(self.drafting is not None))

    def prefill(self, tokens_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Right-padded prompts -> their latents (L, B, T, K), and logits (B, V) at each row's last token."""
        latents, x = self._prefill(tokens_BT)
        return latents, F.linear(self.model.model.norm(_last(x, lengths_B)), self.head)

    def prefill_for_drafts(self, tokens_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`prefill` with the multi-token layer's latents as the last ones, and the hidden states (B, D) besides.

        That layer's latents are complete up to the last token but one: the next needs the token to come.
        """
        latents, x = self._prefill(tokens_BT)
        hidden = self.model.model.norm(x)
        following = F.embedding(tokens_BT.roll(-1, 1), self.model.model.embed_tokens.weight)
        mtp = self._mtp
        normed = mtp.input_layernorm(mtp.merge(hidden, following))
        further = torch.cat(mtp.self_attn.latents(normed, self.model.model.rotation(tokens_BT.shape[1])), -1)
        last = _last(hidden, lengths_B)
        return torch.cat([latents, further[None]]), F.linear(last, self.head), last

    def step(self, tokens_B: Tensor, cache: LatentCache, longest: int) -> Tensor:
        """Append one token to every row -> logits (B, V). No row is then longer than `longest`."""
        x = F.embedding(tokens_B, self.model.model.embed_tokens.weight)
        x = self._through(self.layers, 0, x, cache, longest, 1)
        cache.advance()
        return F.linear(F.rms_norm(x, x.shape[-1:], eps=self.config.rms_norm_eps), self.final)

    def verify(self, tokens_BW: Tensor, cache: LatentCache, longest: int) -> tuple[Tensor, Tensor]:
        """Logits (B, W, V) and hidden states (B, W, D) of W tokens more; they count once the cache advances."""
        x = F.embedding(tokens_BW.flatten(), self.model.model.embed_tokens.weight)
        x = self._through(self.layers, 0, x, cache, longest, tokens_BW.shape[1])
        hidden = self.model.model.norm(x).unflatten(0, tokens_BW.shape)
        return F.linear(hidden, self.head), hidden

    def draft(
        self, hidden_BWD: Tensor, following_BW: Tensor, picked_B: Tensor, cache: LatentCache, longest: int
    ) -> Tensor:
        """The multi-token layer's logits (B, V) for the token after the picked one of each row's `following`.

        The hidden states are of the next W positions of the cache, which does not advance.
        """
        assert self.drafting is not None
        embedded = F.embedding(following_BW, self.model.model.embed_tokens.weight)
        x = self._mtp.merge(hidden_BWD, embedded).flatten(0, 1)
        x = self._through([self.drafting], len(self.layers), x, cache, longest, following_BW.shape[1])
        rows = torch.arange(len(picked_B), device=picked_B.device)
        return F.linear(self._mtp.shared_head["norm"](x.unflatten(0, following_BW.shape)[rows, picked_B]), self.head)

    def close(self) -> None:
        """The samples are made."""

    def captured(
        self, name: str, work: Callable[..., tuple[Tensor, ...]], cache: LatentCache, *given: Tensor
    ) -> tuple[Tensor, ...]:
        """work(*given, cache), row by row; a GPU records it under its name at the first time, and then replays it.

        It must be such that doing it twice does no harm.
        """
        del name
        return work(*given, cache)

    @property
    def _mtp(self) -> MTPLayer:
        mtp = self.model.model.mtp
        assert mtp is not None
        return mtp

    def _prefill(self, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (L, B, T, K) of prompts and the residual stream (B, T, D) after the last block."""
        backbone = self.model.model
        x = backbone.embed_tokens(tokens_BT)
        rotation = backbone.rotation(tokens_BT.shape[1])
        kept = []
        for block in backbone.blocks:
            normed = block.input_layernorm(x)
            latents = block.self_attn.latents(normed, rotation)
            x = x + block.self_attn.attend(block.self_attn.queries(normed, rotation), *latents)
            x = block.feed_forward(x)
            kept.append(torch.cat(latents, -1))
        return torch.stack(kept), x

    def _through(
        self, layers: Sequence[Layer], first: int, x_QD: Tensor, cache: LatentCache, longest: int, width: int
    ) -> Tensor:
        rotation = self.model.model.rope(cache.places(width))
        bias = cache.bias(longest, width)
        for number, layer in enumerate(layers, first):
            x_QD = layer(x_QD, rotation, cache, number, bias)
        return x_QD


def decoder_for(model: Transformer, temperature: float, drafts: bool = False) -> Decoder:
    """The decoder for the device that the model is on: by kernels and captured graphs on a GPU that has Triton."""
    if model.lm_head.weight.is_cuda and find_spec("triton") is not None:
        from model.cuda import CudaDecoder

        return CudaDecoder(model, temperature, drafts)
    return Decoder(model, temperature, drafts)


def _last(x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
    return x_BTD[torch.arange(len(x_BTD), device=x_BTD.device), lengths_B - 1]


def _feed_forward(block: Block) -> Callable[[Tensor], Tensor]:
    """The fused form where all experts together are narrow, else the block's own.

    The fused gate is computed in the type of the weights, so it must be float32, as the gate's own is.
    """
    if isinstance(block.mlp, MoE):
        experts = block.mlp.experts
        if not experts.narrow or experts.down_proj.dtype != torch.float32:
            return block.feed_forward
    return WideFeedForward(block.mlp, block.post_attention_layernorm).step
