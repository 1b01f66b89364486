"""Triton kernels of one decoding step: what lies between its matrix products, and attention to the latents.

Each is one launch where PyTorch would need several, since a step of few rows is bound by their number.
Reductions are taken in float32. A query q of W queries a row stands in cache row q // W, at the position
lengths[q // W] + q % W.

Shapes: Q queries, D hidden, H heads, C latent rank, R rotary size, K = C + R, E routed and S shared experts,
I expert width, V vocabulary, B cache rows, T cache capacity.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.config import ModelConfig

BLOCK_T = 64  # cached tokens that one program attends to at a time
HEADS = 16  # query heads of one program: the least rows of a tensor core's product
CHUNK = 4096  # logits that one program looks at at a time


@triton.jit
def _normed(x_ptr, weight_ptr, size, eps, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < size, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + at, mask=at < size, other=0.0).to(tl.float32)
    return x * tl.rsqrt(tl.sum(x * x) / size + eps) * weight


@triton.jit
def _norm_kernel(x_ptr, weight_ptr, out_ptr, size, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * size
    at = tl.arange(0, BLOCK)
    y = _normed(x_ptr + row, weight_ptr, size, eps, BLOCK)
    tl.store(out_ptr + row + at, y.to(out_ptr.dtype.element_ty), mask=at < size)


def rms_norm(x_QD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """RMSNorm of each row."""
    out, size = torch.empty_like(x_QD), x_QD.shape[1]
    _norm_kernel[(len(x_QD),)](x_QD, weight_D, out, size, eps, BLOCK=triton.next_power_of_2(size))
    return out


@triton.jit
def _of_best_groups(biased, EXPERTS: tl.constexpr, GROUPS: tl.constexpr, KEPT: tl.constexpr):
    """-inf for the experts outside the groups whose two best sum up highest."""
    if KEPT < GROUPS:
        grouped = tl.reshape(biased, [GROUPS, EXPERTS // GROUPS])
        member = tl.arange(0, EXPERTS // GROUPS)[None, :]
        best = tl.max(grouped, 1)
        rest = tl.where(member == tl.argmax(grouped, 1)[:, None], float("-inf"), grouped)
        strength = best + tl.max(rest, 1)
        group = tl.arange(0, GROUPS)
        dropped = tl.full([GROUPS], 1, tl.int1)
        for _ in tl.static_range(KEPT):
            chosen = group == tl.argmax(strength, 0)
            dropped = dropped & (chosen == 0)
            strength = tl.where(chosen, float("-inf"), strength)
        biased = tl.reshape(tl.where(dropped[:, None], float("-inf"), grouped), [EXPERTS])
    return biased


@triton.jit
def _route_kernel(
    x_ptr, gate_ptr, bias_ptr, out_ptr, size, scaling,
    EXPERTS: tl.constexpr, SHARED: tl.constexpr, GROUPS: tl.constexpr, KEPT: tl.constexpr,
    ACTIVE: tl.constexpr, NORMALISE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, EXPERTS)
    logits = tl.zeros([EXPERTS], tl.float32)
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * size + at, mask=at < size, other=0.0).to(tl.float32)
        gate = tl.load(gate_ptr + expert[:, None] * size + at[None, :], mask=at[None, :] < size, other=0.0)
        logits += tl.sum(gate.to(tl.float32) * x[None, :], 1)
    scores = 1.0 / (1.0 + tl.exp(-logits))
    biased = scores + tl.load(bias_ptr + expert)
    biased = _of_best_groups(biased, EXPERTS, GROUPS, KEPT)
    weights = tl.zeros([EXPERTS], tl.float32)
    for _ in tl.static_range(ACTIVE):
        chosen = expert == tl.argmax(biased, 0)
        weights = tl.where(chosen, scores, weights)
        biased = tl.where(chosen, float("-inf"), biased)
    if NORMALISE:
        weights = weights / (tl.sum(weights) + 1e-20)
    place = out_ptr + row * (EXPERTS + SHARED)
    tl.store(place + expert, weights * scaling)
    for number in tl.static_range(SHARED):
        tl.store(place + EXPERTS + number, 1.0)


def route(x_QD: Tensor, gate_ED: Tensor, bias_E: Tensor, config: ModelConfig) -> Tensor:
    """(Q, E + S): the gate's weights where an expert is chosen, 0 elsewhere, 1 for shared experts (eq. 13-16)."""
    rows, size = x_QD.shape
    out = torch.empty(rows, len(gate_ED) + config.n_shared_experts, device=x_QD.device)
    _route_kernel[(rows,)](
        x_QD, gate_ED, bias_E, out, size, config.routed_scaling_factor,
        EXPERTS=len(gate_ED), SHARED=config.n_shared_experts, GROUPS=config.n_group, KEPT=config.topk_group,
        ACTIVE=config.num_experts_per_tok, NORMALISE=config.norm_topk_prob, BLOCK=128,
    )  # fmt: skip
    return out


@triton.jit
def _choose_kernel(
    biased_ptr, out_ptr, EXPERTS: tl.constexpr, GROUPS: tl.constexpr, KEPT: tl.constexpr, ACTIVE: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, EXPERTS)
    biased = _of_best_groups(tl.load(biased_ptr + row * EXPERTS + expert), EXPERTS, GROUPS, KEPT)
    for number in tl.static_range(ACTIVE):
        best = tl.argmax(biased, 0)
        tl.store(out_ptr + row * ACTIVE + number, best.to(tl.int64))
        biased = tl.where(expert == best, float("-inf"), biased)


def choose(biased_NE: Tensor, config: ModelConfig) -> Tensor:
    """The A best experts (N, A) of the best groups, best first."""
    active = config.num_experts_per_tok
    out = torch.empty(biased_NE.shape[0], active, dtype=torch.long, device=biased_NE.device)
    _choose_kernel[(biased_NE.shape[0],)](
        biased_NE, out, EXPERTS=biased_NE.shape[1], GROUPS=config.n_group, KEPT=config.topk_group, ACTIVE=active,
        num_warps=1,
    )  # fmt: skip
    return out


@triton.jit
def _swiglu_kernel(y_ptr, weights_ptr, out_ptr, width, WEIGHED: tl.constexpr, BLOCK: tl.constexpr):
    row, expert, experts = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    at = tl.arange(0, BLOCK)
    inside = at < width
    source = y_ptr + row * 2 * experts * width + expert * width + at
    gate = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(source + experts * width, mask=inside, other=0.0).to(tl.float32)
    h = gate / (1.0 + tl.exp(-gate)) * up
    if WEIGHED:
        h *= tl.load(weights_ptr + row * experts + expert)
    tl.store(out_ptr + row * experts * width + expert * width + at, h.to(out_ptr.dtype.element_ty), mask=inside)


def swiglu(y_QX: Tensor, experts: int, weights_QE: Tensor | None) -> Tensor:
    """silu(gate) * up * weight of the expert; y (Q, 2 E I) holds all gates, then all ups -> (Q, E I)."""
    rows, columns = y_QX.shape
    width = columns // 2 // experts
    out = y_QX.new_empty(rows, columns // 2)
    weights = out if weights_QE is None else weights_QE
    block = triton.next_power_of_2(width)
    _swiglu_kernel[(rows, experts)](y_QX, weights, out, width, WEIGHED=weights_QE is not None, BLOCK=block)
    return out


@triton.jit
def _latents_kernel(
    a_ptr, q_weight_ptr, kv_weight_ptr, rotation_ptr, lengths_ptr, q_ptr, cache_ptr,
    a_stride, row_stride, query_rank, eps,
    RANK: tl.constexpr, ROTARY: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    query = tl.program_id(0).to(tl.int64)
    a_ptr += query * a_stride
    if BLOCK_Q > 1:
        at = tl.arange(0, BLOCK_Q)
        q = _normed(a_ptr, q_weight_ptr, query_rank, eps, BLOCK_Q)
        tl.store(q_ptr + query * query_rank + at, q.to(q_ptr.dtype.element_ty), mask=at < query_rank)
    position = tl.load(lengths_ptr + query // WIDTH) + query % WIDTH
    cache_ptr += (query // WIDTH) * row_stride + position * (RANK + ROTARY)
    at = tl.arange(0, BLOCK_C)
    latent = _normed(a_ptr + query_rank, kv_weight_ptr, RANK, eps, BLOCK_C)
    tl.store(cache_ptr + at, latent.to(cache_ptr.dtype.element_ty), mask=at < RANK)
    pair = tl.arange(0, BLOCK_R)
    inside = pair < ROTARY // 2
    source = a_ptr + query_rank + RANK + 2 * pair
    even, odd = tl.load(source, mask=inside).to(tl.float32), tl.load(source + 1, mask=inside).to(tl.float32)
    turn = rotation_ptr + query * ROTARY + 2 * pair
    cos, sin = tl.load(turn, mask=inside), tl.load(turn + 1, mask=inside)
    target = cache_ptr + RANK + 2 * pair
    tl.store(target, (even * cos - odd * sin).to(cache_ptr.dtype.element_ty), mask=inside)
    tl.store(target + 1, (odd * cos + even * sin).to(cache_ptr.dtype.element_ty), mask=inside)


def cache_latents(
    a_QX: Tensor, q_weight: Tensor | None, kv_weight_C: Tensor, rotation_QR2: Tensor, lengths_B: Tensor,
    cache_BTK: Tensor, width: int, eps: float,
) -> Tensor | None:  # fmt: skip
    """Split a = [query latent, latent, rotary key]: both latents normed, the key rotated; the cache keeps the last two.

    Returns the normed query latent (Q, query rank), None where `q_weight` is.
    """
    rank = len(kv_weight_C)
    rotary = cache_BTK.shape[-1] - rank
    query_rank = 0 if q_weight is None else len(q_weight)
    q = a_QX.new_empty(len(a_QX), query_rank)
    _latents_kernel[(len(a_QX),)](
        a_QX, kv_weight_C if q_weight is None else q_weight, kv_weight_C, rotation_QR2, lengths_B, q, cache_BTK,
        a_QX.stride(0), cache_BTK.stride(0), query_rank, eps,
        RANK=rank, ROTARY=rotary, WIDTH=width, BLOCK_Q=triton.next_power_of_2(max(1, query_rank)),
        BLOCK_C=triton.next_power_of_2(rank), BLOCK_R=triton.next_power_of_2(max(2, rotary // 2)),
    )  # fmt: skip
    return None if q_weight is None else q


@triton.jit
def _attend_kernel(
    content_ptr, rotary_ptr, rotation_ptr, cache_ptr, lengths_ptr, out_ptr, weight_ptr,
    content_query, content_head, rotary_query, rotary_head, row_stride, heads, splits, scale,
    RANK: tl.constexpr, ROTARY: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    query, split = tl.program_id(0).to(tl.int64), tl.program_id(2)
    kind = cache_ptr.dtype.element_ty
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    own = head[:, None] < heads
    channel, pair, part = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_R // 2), tl.arange(0, BLOCK_R)
    content = tl.load(
        content_ptr + query * content_query + head[:, None] * content_head + channel[None, :],
        mask=own & (channel[None, :] < RANK), other=0.0,
    )  # fmt: skip
    turning = own & (pair[None, :] < ROTARY // 2)
    source = rotary_ptr + query * rotary_query + head[:, None] * rotary_head + 2 * pair[None, :]
    even = tl.load(source, mask=turning, other=0.0).to(tl.float32)
    odd = tl.load(source + 1, mask=turning, other=0.0).to(tl.float32)
    turn = rotation_ptr + query * ROTARY + 2 * pair
    cos = tl.load(turn, mask=pair < ROTARY // 2, other=0.0)[None, :]
    sin = tl.load(turn + 1, mask=pair < ROTARY // 2, other=0.0)[None, :]
    rotary = tl.interleave(even * cos - odd * sin, odd * cos + even * sin).to(kind)

    total = tl.load(lengths_ptr + query // WIDTH) + query % WIDTH + 1
    span = tl.cdiv(tl.cdiv(total, splits), BLOCK) * BLOCK
    begin, end = split * span, tl.minimum(total, (split + 1) * span)
    cache_ptr += (query // WIDTH) * row_stride
    most = tl.full([HEADS], float("-inf"), tl.float32)
    mass = tl.zeros([HEADS], tl.float32)
    context = tl.zeros([HEADS, BLOCK_C], tl.float32)
    for start in range(begin, end, BLOCK):
        token = start + tl.arange(0, BLOCK)
        place = cache_ptr + token[:, None] * (RANK + ROTARY)
        seen = token[:, None] < end
        latent = tl.load(place + channel[None, :], mask=seen & (channel[None, :] < RANK), other=0.0)
        key = tl.load(place + RANK + part[None, :], mask=seen & (part[None, :] < ROTARY), other=0.0)
        scores = tl.dot(content, tl.trans(latent), input_precision=PRECISION)
        scores += tl.dot(rotary, tl.trans(key), input_precision=PRECISION)
        scores = tl.where(token[None, :] < end, scores * scale, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        fading = tl.exp(most - higher)
        mass = mass * fading + tl.sum(weights, 1)
        context = context * fading[:, None] + tl.dot(weights.to(kind), latent, input_precision=PRECISION)
        most = higher
    empty = begin >= end
    context = tl.where(empty, 0.0, context / tl.where(empty, 1.0, mass)[:, None])
    place = (query * splits + split) * heads + head
    target = out_ptr + place[:, None] * RANK + channel[None, :]
    tl.store(target, context.to(out_ptr.dtype.element_ty), mask=own & (channel[None, :] < RANK))
    tl.store(weight_ptr + place, tl.where(empty, float("-inf"), most + tl.log(mass)), mask=head < heads)


@triton.jit
def _join_kernel(part_ptr, weight_ptr, out_ptr, splits, RANK: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    query, head, heads = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    split, channel = tl.arange(0, SPLITS), tl.arange(0, BLOCK)
    place = (query * splits + split) * heads + head
    weight = tl.load(weight_ptr + place, mask=split < splits, other=float("-inf"))
    weight = tl.exp(weight - tl.max(weight, 0))
    part = tl.load(
        part_ptr + place[:, None] * RANK + channel[None, :],
        mask=(split[:, None] < splits) & (channel[None, :] < RANK), other=0.0,
    )  # fmt: skip
    context = tl.sum(part * weight[:, None], 0) / tl.sum(weight)
    target = out_ptr + (query * heads + head) * RANK + channel
    tl.store(target, context.to(out_ptr.dtype.element_ty), mask=channel < RANK)


def attend(
    content_QHC: Tensor, rotary_QHR: Tensor, rotation_QR2: Tensor, cache_BTK: Tensor, lengths_B: Tensor,
    width: int, scale: float, splits: int,
) -> Tensor:  # fmt: skip
    """Attention of absorbed queries to the latents of their row, each up to its own position -> (Q, H, C).

    `rotary` is turned here. `splits` programs share a row's tokens, and a second kernel joins them.
    """
    queries, heads, rank = content_QHC.shape
    rotary = cache_BTK.shape[-1] - rank
    out = content_QHC.new_empty(queries, heads, rank)
    parts = out if splits == 1 else out.new_empty(queries, splits, heads, rank, dtype=torch.float32)
    weights = out.new_empty(queries, splits, heads, dtype=torch.float32)
    _attend_kernel[(queries, triton.cdiv(heads, HEADS), splits)](
        content_QHC, rotary_QHR, rotation_QR2, cache_BTK, lengths_B, parts, weights,
        content_QHC.stride(0), content_QHC.stride(1), rotary_QHR.stride(0), rotary_QHR.stride(1), cache_BTK.stride(0),
        heads, splits, scale,
        RANK=rank, ROTARY=rotary, WIDTH=width, PRECISION="ieee" if out.dtype == torch.float32 else "tf32",
        BLOCK_C=max(16, triton.next_power_of_2(rank)), BLOCK_R=max(16, triton.next_power_of_2(rotary)),
        BLOCK=BLOCK_T if rank <= 256 else BLOCK_T // 2, HEADS=HEADS, num_warps=4, num_stages=3,
    )  # fmt: skip
    if splits > 1:
        block, most = triton.next_power_of_2(rank), triton.next_power_of_2(splits)
        _join_kernel[(queries, heads)](parts, weights, out, splits, RANK=rank, SPLITS=most, BLOCK=block)
    return out


@triton.jit
def _draw_kernel(logits_ptr, chance_ptr, id_ptr, logprob_ptr, stride, size, GREEDY: tl.constexpr, CHUNK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * stride
    at = tl.arange(0, CHUNK)
    most, best, mass = float("-inf"), 0, 0.0
    for start in range(0, size, CHUNK):
        logits = tl.load(logits_ptr + start + at, mask=start + at < size, other=float("-inf")).to(tl.float32)
        high = tl.max(logits, 0)
        if high > most:
            best = start + tl.argmax(logits, 0)
        higher = tl.maximum(most, high)
        mass = mass * tl.exp(most - higher) + tl.sum(tl.exp(logits - higher), 0)
        most = higher
    found = best
    if not GREEDY:
        target = tl.load(chance_ptr + row) * mass
        below, before, last = 0, 0.0, 0
        for start in range(0, size, CHUNK):
            logits = tl.load(logits_ptr + start + at, mask=start + at < size, other=float("-inf")).to(tl.float32)
            probs = tl.exp(logits - most)
            total = before + tl.cumsum(probs, 0)
            below += tl.sum(((total <= target) & (start + at < size)).to(tl.int32), 0)
            last = tl.maximum(last, tl.max(tl.where(probs > 0, start + at, 0), 0))
            before = tl.maximum(before, tl.max(total, 0))
        found = tl.minimum(below, last)
    tl.store(id_ptr + row, found.to(tl.int64))
    tl.store(logprob_ptr + row, tl.load(logits_ptr + found).to(tl.float32) - most - tl.log(mass))


def draw(logits_QV: Tensor, chance_Q: Tensor, greedy: bool) -> tuple[Tensor, Tensor]:
    """One token a row at quantile `chance` of the softmax, or the most likely; and its log-probability."""
    rows, size = logits_QV.shape
    chance_Q = chance_Q.contiguous()
    ids = torch.empty(rows, dtype=torch.long, device=logits_QV.device)
    logprobs = torch.empty(rows, device=logits_QV.device)
    _draw_kernel[(rows,)](
        logits_QV,
        chance_Q,
        ids,
        logprobs,
        logits_QV.stride(0),
        size,
        GREEDY=greedy,
        CHUNK=min(4 * CHUNK, triton.next_power_of_2(size)),
        num_warps=16,
    )
    return ids, logprobs


@triton.jit
def _logprobs_kernel(logits_ptr, target_ptr, out_ptr, norm_ptr, entropy_ptr, size, inverse, CHUNK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * size
    at = tl.arange(0, CHUNK)
    most, mass, weighed = float("-inf"), 0.0, 0.0  # the sums of exp(x - most), and of that times x - most
    for start in range(0, size, CHUNK):
        inside = start + at < size
        logits = tl.load(logits_ptr + start + at, mask=inside, other=float("-inf")).to(tl.float32) * inverse
        higher = tl.maximum(most, tl.max(logits, 0))
        before = tl.exp(most - higher)
        below = tl.where(inside, logits - higher, 0.0)
        share = tl.where(inside, tl.exp(below), 0.0)
        weighed = tl.where(mass > 0, before * (weighed + (most - higher) * mass), 0.0) + tl.sum(share * below, 0)
        mass = mass * before + tl.sum(share, 0)
        most = higher
    norm = most + tl.log(mass)
    tl.store(entropy_ptr + row, tl.log(mass) - weighed / mass)
    own = tl.load(logits_ptr + tl.load(target_ptr + row)).to(tl.float32) * inverse
    tl.store(out_ptr + row, own - norm)
    tl.store(norm_ptr + row, norm)


def logprobs(
    logits_NV: Tensor, targets_N: Tensor, temperature: float, out_N: Tensor, norm_N: Tensor, entropy_N: Tensor
) -> None:
    """Write log softmax(logits / temperature) at the targets, the logarithm of its normaliser, and its entropy."""
    rows, size = logits_NV.shape
    if rows:
        _logprobs_kernel[(rows,)](
            logits_NV, targets_N.contiguous(), out_N, norm_N, entropy_N, size, 1 / temperature, CHUNK=CHUNK, num_warps=8
        )


@triton.jit
def _gradient_kernel(logits_ptr, target_ptr, norm_ptr, grad_ptr, size, inverse, CHUNK: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    place = logits_ptr + row * size + at
    logits = tl.load(place, mask=at < size, other=0.0).to(tl.float32) * inverse
    probs = tl.exp(logits - tl.load(norm_ptr + row))
    slope = tl.load(grad_ptr + row) * inverse
    grad = tl.where(at == tl.load(target_ptr + row), slope, 0.0) - probs * slope
    tl.store(place, grad.to(logits_ptr.dtype.element_ty), mask=at < size)


def logits_gradient_(logits_NV: Tensor, targets_N: Tensor, temperature: float, norm_N: Tensor, grad_N: Tensor) -> None:
    """Overwrite logits with the gradient that those of their log-probabilities make: (onehot - softmax) / T."""
    rows, size = logits_NV.shape
    if rows:
        _gradient_kernel[(rows, triton.cdiv(size, CHUNK))](
            logits_NV, targets_N.contiguous(), norm_N, grad_N.contiguous(), size, 1 / temperature, CHUNK=CHUNK
        )
