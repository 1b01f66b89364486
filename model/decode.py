"""One token a row: prefill of prompts, then steps over a latent cache with weights fused for the purpose.

Shapes: B rows, T tokens, D hidden, L layers, K cached values per token, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from model.attention import AbsorbedMLA, LatentCache
from model.moe import MoE, WideFeedForward
from model.transformer import Block, Transformer


class Decoder:
    """Fused weights of a policy for decoding, without gradient; after an update of the policy make a new one.

    Logits are divided by `temperature`, which is folded into the head.
    """

    @torch.no_grad()
    def __init__(self, model: Transformer, temperature: float = 1.0) -> None:
        self.model, self.config = model, model.config
        backbone = model.model
        self.attention = [AbsorbedMLA(block.self_attn, block.input_layernorm) for block in backbone.blocks]
        self.feed_forward = [_feed_forward(block) for block in backbone.blocks]
        self.head = model.lm_head.weight / temperature
        self.final = self.head * backbone.norm.weight

    def prefill(self, tokens_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Right-padded prompts -> their latents (L, B, T, K), and logits (B, V) at each row's last token."""
        backbone = self.model.model
        x = backbone.embed_tokens(tokens_BT)
        rotation = backbone.rotation(tokens_BT.shape[1])
        kept = []
        for block in backbone.blocks:
            normed = block.input_layernorm(x)
            latents = block.self_attn.latents(normed, rotation)
            x = x + block.self_attn.attend(block.self_attn.queries(normed, rotation), *latents)
            x = x + block.feed_forward(x)
            kept.append(torch.cat(latents, -1))
        last = x[torch.arange(len(x), device=x.device), lengths_B - 1]
        return torch.stack(kept), F.linear(backbone.norm(last), self.head)

    def step(self, tokens_B: Tensor, cache: LatentCache, longest: int) -> Tensor:
        """Append one token to every row -> logits (B, V). No row is then longer than `longest`."""
        x = F.embedding(tokens_B, self.model.model.embed_tokens.weight)
        rotation = self.model.model.rope(cache.lengths)
        bias = cache.bias(longest)
        for layer, (attention, feed_forward) in enumerate(zip(self.attention, self.feed_forward, strict=True)):
            x = attention.step(x, rotation, cache, layer, bias)
            x = feed_forward(x)
        cache.advance()
        return F.linear(F.rms_norm(x, x.shape[-1:], eps=self.config.rms_norm_eps), self.final)


def _feed_forward(block: Block) -> Callable[[Tensor], Tensor]:
    """The fused form where all experts together are narrow, else the block's own.

    The fused gate is computed in the type of the weights, so it must be float32, as the gate's own is.
    """
    if isinstance(block.mlp, MoE):
        experts = block.mlp.experts
        if not experts.narrow or experts.down_proj.dtype != torch.float32:
            return lambda x: x + block.feed_forward(x)
    return WideFeedForward(block.mlp, block.post_attention_layernorm).step
