"""Decoding on a GPU: each step is captured once in a CUDA graph, over a cache that stays where it is.

Rows are padded to a bucket, for each of which there is one graph. Weights are used as they are, not folded
into one another as on a CPU, so that the log-probabilities of what is sampled are those of the trainer up to
the rounding of activations.

Shapes: B rows, W tokens a row, Q = B W, D hidden, H heads, C latent rank, R rotary size, L layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model import kernels
from model.attention import LATENT_EPS, LatentCache
from model.decode import Decoder, Layer
from model.moe import MLP, MoE, can_route, expert_weights
from model.slots import Captured, SlotCache, bucket
from model.transformer import Block, Transformer

WIDE = 16  # hidden sizes up to which all experts together are one product, read whole as a full batch reads them
FILLED = 0.8  # part of the free memory that a cache may take
PROGRAMS_PER_PROCESSOR = 4  # of attention, so that each of the GPU's processors has some to switch between
FEW = 16  # rows up to which a step costs about the same, so that a graph of more rows serves fewer
LEAST_TOKENS = 128  # of a row, that are worth a program of their own


class KernelCache(SlotCache):
    """Slots that kernels read: they see by the lengths, not by a bias."""

    def bias(self, longest: int, width: int = 1) -> Tensor:
        """(B, width, 0)."""
        return torch.empty(self.count, width, 0, device=self.slots.device)


class CudaDecoder(Decoder):
    """The decoder of a GPU. What `step` and `captured` return is overwritten by their next call."""

    @torch.no_grad()
    def __init__(self, model: Transformer, temperature: float = 1.0, drafts: bool = False) -> None:
        super().__init__(model, temperature, drafts)
        self.graphs: dict[tuple[Any, ...], tuple[list[Tensor], Captured]] = {}
        self.pool = torch.cuda.graph_pool_handle()
        self.captures = all(_can_be_captured(block) for block in model.model.blocks)

    def _layer(self, block: Block) -> Layer:
        attention, feed_forward = KernelAttention(block), _feed_forward(block)
        return lambda x, *rest: feed_forward(attention(x, *rest))

    def rows_that_fit(self, tokens: int) -> int | None:
        layers = len(self.layers) + (self.drafting is not None)
        row = layers * tokens * self.config.latent_dim * self.head.element_size()
        free = torch.cuda.mem_get_info(self.head.device)[0]
        unused = torch.cuda.memory_reserved(self.head.device) - torch.cuda.memory_allocated(self.head.device)
        return max(1, int(FILLED * (free + unused)) // row)

    def new_cache(self, rows: int, tokens: int) -> LatentCache:
        layers = len(self.layers) + (self.drafting is not None)
        return KernelCache(self.head.new_empty(layers, bucket(rows), tokens, self.config.latent_dim))

    def step(self, tokens_B: Tensor, cache: LatentCache, longest: int) -> Tensor:
        logits, _ = self.captured("step", self.verify, cache, tokens_B[:, None])
        cache.advance()
        return logits[:, 0]

    def verify(self, tokens_BW: Tensor, cache: LatentCache, longest: int = 0) -> tuple[Tensor, Tensor]:
        x = F.embedding(tokens_BW.flatten(), self.model.model.embed_tokens.weight)
        x = self._through(self.layers, 0, x, cache, longest, tokens_BW.shape[1])
        hidden = kernels.rms_norm(x, self.model.model.norm.weight, self.config.rms_norm_eps)
        logits = F.linear(hidden, self.head)
        return logits.unflatten(0, tokens_BW.shape), hidden.unflatten(0, tokens_BW.shape)

    def captured(
        self, name: str, work: Callable[..., tuple[Tensor, ...]], cache: LatentCache, *given: Tensor
    ) -> tuple[Tensor, ...]:
        """`work(*given, cache)` by a CUDA graph for each name, bucket of rows, cache and shape.

        `given` tensors are (B, ...); the results are the first B rows of the graph's, which the next call overwrites.
        Where captures are off, `work` is called as it is.
        """
        assert isinstance(cache, SlotCache)
        if not self.captures:
            return work(*given, cache)
        count = len(given[0])
        what = name, cache.data.data_ptr(), *(each.shape[1:] for each in given)
        fitting = [rows for rows, *other in self.graphs if other == list(what) and count <= rows <= FEW]
        rows = min(fitting, default=min(bucket(count), len(cache.slots)))
        key = rows, *what
        if key not in self.graphs:
            fixed = [each.new_zeros(rows, *each.shape[1:]) for each in given]
            view = cache.first(rows)
            self.graphs[key] = fixed, Captured(lambda: work(*fixed, view), self.pool)
        fixed, captured = self.graphs[key]
        for place, each in zip(fixed, given, strict=True):
            place[:count] = each
        return tuple(each[:count] for each in captured())


class KernelAttention:
    """Absorbed attention of one block with the norm before it (V2 report, appendix C), by Triton kernels."""

    def __init__(self, block: Block) -> None:
        mla, config = block.self_attn, block.self_attn.config
        self.norm, self.eps = block.input_layernorm.weight, config.rms_norm_eps
        self.scale, self.heads = mla.scale, mla.heads
        self.split = [config.qk_nope_head_dim, config.qk_rope_head_dim]
        expand_HXC = mla.kv_b_proj.weight.unflatten(0, (self.heads, -1))
        self.key_HNC, value_HVC = expand_HXC.split([config.qk_nope_head_dim, config.v_head_dim], 1)
        self.value_HCV = value_HVC.transpose(1, 2)
        self.q_norm = mla.q_a_layernorm.weight if mla.q_lora_rank else None
        self.kv_norm = mla.kv_a_layernorm.weight
        self.query = mla.q_b_proj.weight if mla.q_lora_rank else mla.q_proj.weight
        down = mla.kv_a_proj_with_mqa.weight
        self.first = torch.cat([mla.q_a_proj.weight, down]) if mla.q_lora_rank else down
        self.out = mla.o_proj.weight.t()

    def __call__(self, x_QD: Tensor, rotation_QR: Tensor, cache: LatentCache, number: int, bias_BWT: Tensor) -> Tensor:
        """As `Layer`; of the bias, which the kernels do not need, only the width is read."""
        assert isinstance(cache, SlotCache)
        width, rotation, data = bias_BWT.shape[1], rotation_QR, cache.data[number]
        normed = kernels.rms_norm(x_QD, self.norm, self.eps)
        down = F.linear(normed, self.first)
        latent = kernels.cache_latents(down, self.q_norm, self.kv_norm, rotation, cache.slots, data, width, LATENT_EPS)
        q_QHX = F.linear(normed if latent is None else latent, self.query).unflatten(-1, (self.heads, -1))
        content_QHN, rotary_QHR = q_QHX.split(self.split, -1)
        content_QHC = torch.bmm(content_QHN.transpose(0, 1), self.key_HNC).transpose(0, 1)
        splits = _splits(len(x_QD), self.heads, data)
        context_QHC = kernels.attend(content_QHC, rotary_QHR, rotation, data, cache.slots, width, self.scale, splits)
        value_QHV = x_QD.new_empty(len(x_QD), self.heads, self.value_HCV.shape[-1])
        torch.bmm(context_QHC.transpose(0, 1), self.value_HCV, out=value_QHV.transpose(0, 1))
        return x_QD.addmm_(value_QHV.flatten(1), self.out)


def _splits(queries: int, heads: int, cache_BTK: Tensor) -> int:
    """Programs that share a row's tokens: as many as keep the GPU busy and have enough to do."""
    processors = torch.cuda.get_device_properties(cache_BTK.device).multi_processor_count
    programs = queries * -(-heads // kernels.HEADS)
    wanted = -(-PROGRAMS_PER_PROCESSOR * processors // programs)
    most = max(1, cache_BTK.shape[1] // LEAST_TOKENS)
    return 1 << (min(wanted, most).bit_length() - 1)


class KernelFeedForward:
    """All experts, and the norm before them, as one product each way, masked by the gate's weights.

    Shared experts count as experts of weight one. A dense MLP is the case of no gate.
    """

    def __init__(self, block: Block) -> None:
        config, mlp = block.self_attn.config, block.mlp
        self.norm, self.eps = block.post_attention_layernorm.weight, config.rms_norm_eps
        self.gate = mlp.gate if isinstance(mlp, MoE) else None
        gates, ups, downs = zip(*expert_weights(mlp), strict=True)
        self.experts = config.n_routed_experts + config.n_shared_experts if isinstance(mlp, MoE) else 1
        self.first = torch.cat([*gates, *ups])
        self.down = torch.cat([down.t() for down in downs])

    def __call__(self, x_QD: Tensor) -> Tensor:
        """Residual stream (Q, D) before the feed-forward -> the same after it."""
        normed = kernels.rms_norm(x_QD, self.norm, self.eps)
        weights = None
        if self.gate is not None:
            gate = self.gate
            weights = kernels.route(normed, gate.weight, gate.e_score_correction_bias, gate.config)
        h = kernels.swiglu(F.linear(normed, self.first), self.experts, weights)
        return x_QD.addmm_(h, self.down)


def _feed_forward(block: Block) -> Callable[[Tensor], Tensor]:
    """By kernels where all experts are narrow enough to be read whole at every step, else the block's own."""
    return KernelFeedForward(block) if _is_narrow(block) else block.feed_forward


def _is_narrow(block: Block) -> bool:
    if isinstance(block.mlp, MLP):
        return True
    config = block.mlp.gate.config
    width = (config.n_routed_experts + config.n_shared_experts) * config.moe_intermediate_size
    return width <= WIDE * config.hidden_size and can_route(config)


def _can_be_captured(block: Block) -> bool:
    """A grouped product in another type than bfloat16 asks the CPU for the size of each group."""
    return _is_narrow(block) or block.self_attn.o_proj.weight.dtype == torch.bfloat16
