"""Multi-head latent attention with rotary positions (V3 report, eq. 1-11; YaRN: section 4.3).

Two forms of one function: `MLA` expands keys and values from the latent, for whole sequences; `AbsorbedMLA`
attends to the cached latents themselves, for one new token a row.

Shapes: B batch, T tokens, D hidden, H heads, N no-position head dim, R rotary head dim, V value head dim,
C latent rank (kv_lora_rank), Q query latent rank, K = C + R values cached per token, L layers.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.config import ModelConfig
from model.lean import SHORT, KeysAndValues, RotatedHeads, ShortAttention, is_lean, norm_of

LATENT_EPS = 1e-6  # the norms of both latents keep this, whatever rms_norm_eps says


class Rope:
    """Rotations e^(i t w) of the rotary pairs at given positions, with YaRN where configured."""

    def __init__(self, config: ModelConfig) -> None:
        self.magnitude = 1.0
        if yarn := config.rope_scaling:
            factor = yarn["factor"]
            self.magnitude = yarn_magnitude(factor, yarn["mscale"]) / yarn_magnitude(factor, yarn["mscale_all_dim"])
        self.frequencies = rope_frequencies(config)

    def __call__(self, positions: Tensor) -> Tensor:
        """positions (...) -> (..., R/2) complex64, on a GPU (..., R/2, 2) float32, which compilers understand."""
        self.frequencies = self.frequencies.to(positions.device)
        angles = positions[..., None] * self.frequencies
        if positions.is_cuda:
            return torch.stack([angles.cos(), angles.sin()], -1) * self.magnitude
        return torch.polar(torch.full_like(angles, self.magnitude), angles)


def rope_frequencies(config: ModelConfig) -> Tensor:
    """Radians per position of each rotary pair, (R/2,) float32; with YaRN, interpolated by wavelength.

    Pairs that turn more than `beta_fast` times within the original context keep their frequency, those
    that turn less than `beta_slow` times are slowed by `factor`, the ones between follow a linear ramp.
    """
    dim, base = config.qk_rope_head_dim, config.rope_theta
    frequencies = 1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim)
    yarn = config.rope_scaling
    if yarn is None:
        return frequencies

    def pair_turning(times: float) -> float:
        context = yarn["original_max_position_embeddings"]
        return dim * math.log(context / (times * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(pair_turning(yarn["beta_fast"])), 0)
    high = min(math.ceil(pair_turning(yarn["beta_slow"])), dim - 1)
    ramp = (torch.arange(dim // 2, dtype=torch.float32, device="cpu") - low) / max(high - low, 0.001)
    slowed = ramp.clamp(0, 1)
    return frequencies / yarn["factor"] * slowed + frequencies * (1 - slowed)


def yarn_magnitude(factor: float, mscale: float) -> float:
    """YaRN's sqrt(t) = 0.1 m ln(s) + 1; 1 without extension."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def softmax_scale(config: ModelConfig) -> float:
    """1 / sqrt(N + R), times YaRN's squared magnitude."""
    scale = config.qk_head_dim**-0.5
    if config.rope_scaling is None:
        return scale
    return scale * yarn_magnitude(config.rope_scaling["factor"], config.rope_scaling["mscale_all_dim"]) ** 2


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn adjacent pairs of x (..., R) by rotation (..., R/2), which broadcasts; computed in float32."""
    if not rotation.is_complex():
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = rotation.unbind(-1)
        return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2).type_as(x)
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).type_as(x)


def causal_attention(q_BHTX: Tensor, k_BHTX: Tensor, v_BHTV: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T, causal) v -> (B, H, T, V), by what is fastest where the tensors are."""
    if q_BHTX.device.type == "cpu" and q_BHTX.shape[2] <= SHORT:
        q, k, v = (x.flatten(0, 1) for x in (q_BHTX, k_BHTX, v_BHTV))
        return ShortAttention.apply(q, k, v, scale).unflatten(0, q_BHTX.shape[:2])
    if q_BHTX.is_cuda and q_BHTX.dtype != torch.float32:
        with sdpa_kernel(
            [SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH], set_priority=True
        ):
            return F.scaled_dot_product_attention(q_BHTX, k_BHTX, v_BHTV, is_causal=True, scale=scale)
    # The fused kernels want one head size: zeros widen the values and are cut off again.
    wider = max(0, q_BHTX.shape[-1] - v_BHTV.shape[-1])
    out = F.scaled_dot_product_attention(q_BHTX, k_BHTX, F.pad(v_BHTV, (0, wider)), is_causal=True, scale=scale)
    return out[..., : v_BHTV.shape[-1]]


class MLA(nn.Module):
    """Multi-head latent attention in naive form: per-head keys and values are expanded from the latent."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = softmax_scale(config)
        self.heads = heads = config.num_attention_heads
        hidden = config.hidden_size
        self.q_lora_rank = config.q_lora_rank or 0
        if self.q_lora_rank:
            self.q_a_proj = nn.Linear(hidden, self.q_lora_rank, bias=False)
            self.q_a_layernorm = nn.RMSNorm(self.q_lora_rank, LATENT_EPS)
            self.q_b_proj = nn.Linear(self.q_lora_rank, heads * config.qk_head_dim, bias=False)
        else:
            self.q_proj = nn.Linear(hidden, heads * config.qk_head_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden, config.latent_dim, bias=False)
        self.kv_a_layernorm = nn.RMSNorm(config.kv_lora_rank, LATENT_EPS)
        expanded = heads * (config.qk_nope_head_dim + config.v_head_dim)
        self.kv_b_proj = nn.Linear(config.kv_lora_rank, expanded, bias=False)
        self.o_proj = nn.Linear(heads * config.v_head_dim, hidden, bias=False)

    def queries(self, x_BTD: Tensor, rotation_TR: Tensor) -> Tensor:
        """Rotated queries (B, H, T, N + R)."""
        if self.q_lora_rank:
            q = self.q_b_proj(_norm(self.q_a_proj(x_BTD), self.q_a_layernorm))
        else:
            q = self.q_proj(x_BTD)
        q_BTHX = q.unflatten(-1, (self.heads, -1))
        if is_lean(q):
            return RotatedHeads.apply(q_BTHX, rotation_TR, self.config.qk_nope_head_dim)
        content, rotary = q_BTHX.transpose(1, 2).split([self.config.qk_nope_head_dim, self.config.qk_rope_head_dim], -1)
        return torch.cat([content, rotate(rotary, rotation_TR)], -1)

    def latents(self, x_BTD: Tensor, rotation_TR: Tensor) -> tuple[Tensor, Tensor]:
        """What a cache keeps: normalised latent (B, T, C) and rotated shared key (B, T, R)."""
        split = [self.config.kv_lora_rank, self.config.qk_rope_head_dim]
        latent, rotary = self.kv_a_proj_with_mqa(x_BTD).split(split, -1)
        return _norm(latent, self.kv_a_layernorm), rotate(rotary, rotation_TR)

    def attend(self, q_BHTX: Tensor, latent_BTC: Tensor, rotary_BTR: Tensor) -> Tensor:
        """Causal attention of queries (B, H, T, N + R) to the tokens of these latents -> (B, T, D)."""
        expanded_BTHX = self.kv_b_proj(latent_BTC).unflatten(-1, (self.heads, -1))
        if is_lean(expanded_BTHX):
            k_BHTX, v_BHTV = KeysAndValues.apply(expanded_BTHX, rotary_BTR, self.config.qk_nope_head_dim)
        else:
            content, v_BHTV = expanded_BTHX.transpose(1, 2).split(
                [self.config.qk_nope_head_dim, self.config.v_head_dim], -1
            )
            k_BHTX = torch.cat([content, rotary_BTR[:, None].expand(-1, self.heads, -1, -1)], -1)
        out_BHTV = causal_attention(q_BHTX, k_BHTX, v_BHTV, self.scale)
        return self.o_proj(out_BHTV.transpose(1, 2).flatten(2))

    def forward(self, x_BTD: Tensor, rotation_TR: Tensor) -> Tensor:
        return self.attend(self.queries(x_BTD, rotation_TR), *self.latents(x_BTD, rotation_TR))


def _norm(latent: Tensor, norm: nn.RMSNorm) -> Tensor:
    """Under autocast the latent comes in 16 bits; the norm is taken in the type of its weight."""
    return norm_of(latent.to(norm.weight.dtype), norm)


class LatentCache:
    """Latents and rotary keys of the tokens seen so far, one row per sequence; rows may differ in length.

    `data` is (L, B, capacity, K), finite throughout; `lengths` (B,) counts the tokens of each row, and what
    lies beyond has no weight.
    """

    def __init__(self, data_LBTK: Tensor, lengths_B: Tensor) -> None:
        self._set(data_LBTK, lengths_B)

    def _set(self, data_LBTK: Tensor, lengths_B: Tensor) -> None:
        self.data, self.lengths = data_LBTK, lengths_B
        self._rows = torch.arange(len(lengths_B), device=lengths_B.device)

    @classmethod
    def empty(cls, config: ModelConfig, like: Tensor, further: int = 0) -> LatentCache:
        """No rows; type and device of `like`; `further` layers beside those of the main model."""
        data = like.new_zeros(config.num_hidden_layers + further, 0, 0, config.latent_dim)
        return cls(data, torch.zeros(0, dtype=torch.long, device=like.device))

    @property
    def capacity(self) -> int:
        return self.data.shape[2]

    def places(self, width: int) -> Tensor:
        """Positions (B width,) of the next `width` tokens of each row."""
        if width == 1:
            return self.lengths
        return (self.lengths[:, None] + torch.arange(width, device=self.lengths.device)).flatten()

    def append(self, layer: int, latent_QK: Tensor, width: int = 1) -> None:
        """Write `width` tokens a row behind each row's last; `advance` makes them count."""
        rows = self._rows if width == 1 else self._rows.repeat_interleave(width)
        self.data[layer].index_put_((rows, self.places(width)), latent_QK)

    def advance(self, tokens: int | Tensor = 1) -> None:
        self.lengths.add_(tokens)

    def reserve(self, capacity: int, ahead: int = 0) -> None:
        """Make room for rows of `capacity` tokens; where there is none, for `ahead` more at once."""
        if capacity > self.capacity:
            self.data = F.pad(self.data, (0, 0, 0, capacity + ahead - self.capacity))

    def extend(self, latents_LBTK: Tensor, lengths_B: Tensor) -> None:
        """Add prefilled rows behind the present ones."""
        self.reserve(latents_LBTK.shape[2])
        added = F.pad(latents_LBTK, (0, 0, 0, self.capacity - latents_LBTK.shape[2]))
        self._set(torch.cat([self.data, added], 1), torch.cat([self.lengths, lengths_B]))

    def select(self, rows: Tensor, longest: int) -> None:
        """Keep these rows, in this order, and room for `longest` tokens."""
        self._set(self.data[:, :, :longest].index_select(1, rows), self.lengths.index_select(0, rows))

    def bias(self, longest: int, width: int = 1) -> Tensor:
        """(B, width, longest): 0 for the tokens of a row and those appended up to one's own, -inf beyond."""
        beyond = torch.arange(longest, device=self.lengths.device) > self.places(width)[:, None]
        return self.data.new_zeros(beyond.shape).masked_fill_(beyond, -math.inf).unflatten(0, (-1, width))


class AbsorbedMLA:
    """Fused weights of one MLA and of the norm before it, for decoding (V2 report, appendix C).

    W_UK is absorbed into the query and W_UV into the output, so that a token attends to K cached values
    instead of H (N + R + V). For a narrow latent the products are multiplied out, else left as factors.
    """

    def __init__(self, mla: MLA, norm: nn.RMSNorm) -> None:
        config = mla.config
        self.heads, self.rank, self.rotary = mla.heads, config.kv_lora_rank, config.qk_rope_head_dim
        self.eps, self.latent_norm = norm.eps, mla.kv_a_layernorm.weight
        expand_HXC = mla.kv_b_proj.weight.unflatten(0, (self.heads, -1))
        self.key_HNC, value_HVC = expand_HXC.split([config.qk_nope_head_dim, config.v_head_dim], 1)
        self.value_HCV = value_HVC.transpose(1, 2)
        self.folded = self.rank <= 2 * config.qk_nope_head_dim
        has_latent = mla.q_lora_rank > 0
        query = self._query_weight((mla.q_b_proj if has_latent else mla.q_proj).weight * mla.scale)
        first = mla.q_a_proj.weight if has_latent else query
        self.first = torch.cat([first, mla.kv_a_proj_with_mqa.weight]) * norm.weight
        self.second = query * mla.q_a_layernorm.weight if has_latent else None
        self.first_split = [len(first), self.rank, self.rotary]
        self.query_split = [len(query) - self.heads * self.rotary, self.heads * self.rotary]
        self.out_XD = self._out_weight(mla.o_proj.weight)

    def _query_weight(self, weight: Tensor) -> Tensor:
        """Rows of all heads' content queries, then rows of all heads' rotary queries."""
        content, rotary = weight.unflatten(0, (self.heads, -1)).split([self.key_HNC.shape[1], self.rotary], 1)
        if self.folded:
            content = self.key_HNC.transpose(1, 2) @ content
        return torch.cat([content.flatten(0, 1), rotary.flatten(0, 1)])

    def _out_weight(self, weight_DX: Tensor) -> Tensor:
        out_HVD = weight_DX.t().unflatten(0, (self.heads, -1))
        return (self.value_HCV @ out_HVD if self.folded else out_HVD).flatten(0, 1).contiguous()

    def _project(self, x_BD: Tensor, rotation_BR: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, H, K) against cached latents, and this token's own latent (B, K)."""
        normed = F.rms_norm(x_BD, x_BD.shape[-1:], eps=self.eps)
        q, latent, key = F.linear(normed, self.first).split(self.first_split, -1)
        if self.second is not None:
            q = F.linear(F.rms_norm(q, q.shape[-1:], eps=LATENT_EPS), self.second)
        content, rotary = q.split(self.query_split, -1)
        rotary = torch.cat([rotary, key], -1).unflatten(-1, (self.heads + 1, self.rotary))
        rotary = rotate(rotary, rotation_BR[:, None])
        content = content.unflatten(-1, (self.heads, -1))
        if not self.folded:
            content = torch.einsum("bhn,hnc->bhc", content, self.key_HNC)
        latent = F.rms_norm(latent, (self.rank,), self.latent_norm, LATENT_EPS)
        return torch.cat([content, rotary[:, :-1]], -1), torch.cat([latent, rotary[:, -1]], -1)

    def step(self, x_QD: Tensor, rotation_QR: Tensor, cache: LatentCache, layer: int, bias_BWT: Tensor) -> Tensor:
        """Residual stream (Q, D) of W tokens a row before attention -> the same after it; appends to the cache."""
        width = bias_BWT.shape[1]
        query_QHK, latent_QK = self._project(x_QD, rotation_QR)
        cache.append(layer, latent_QK, width)
        seen_BTK = cache.data[layer, :, : bias_BWT.shape[-1]]
        if width > 1:
            bias_BWT = bias_BWT.repeat_interleave(self.heads, 1)
        query_BXK = query_QHK.unflatten(0, (-1, width)).flatten(1, 2)
        scores = torch.baddbmm(bias_BWT, query_BXK, seen_BTK.transpose(1, 2))
        context = scores.softmax(-1, dtype=torch.float32).to(scores.dtype) @ seen_BTK[..., : self.rank]
        context_QHC = context.unflatten(1, (width, -1)).flatten(0, 1)
        if not self.folded:
            context_QHC = torch.einsum("bhc,hcv->bhv", context_QHC, self.value_HCV)
        return torch.addmm(x_QD, context_QHC.flatten(1), self.out_XD)
