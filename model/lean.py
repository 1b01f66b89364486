"""Training on a CPU: functions whose backward is written out, which pass over memory less often than autograd does.

Each computes what the plain formula beside its caller computes, and its gradients, to the same bits: the same
products and sums in the same order, but in place, or into a part of a tensor that is needed anyway. A CPU's step
of a small model is bound by memory that is touched for the first time as much as by its products.

Shapes: B batch, T tokens, D hidden, H heads, N no-position head dim, R rotary head dim, X = N + R, V value head
dim, Z = B H; in the experts' layer M tokens, E experts, A experts per token, I expert width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model.loss import parts

SHORT, BLOCK = 512, 64  # longest sequence, and queries of one block, of the CPU's own attention
PART = 1024  # tokens whose intermediate values exist at a time


def is_lean(x: Tensor) -> bool:
    """Whether these functions serve a tensor: float32 on a CPU, where no compiler joins the plain formulas itself."""
    if torch.compiler.is_compiling():
        return False
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def beside_norm(x: Tensor, norm: nn.RMSNorm) -> tuple[Tensor, Tensor]:
    """A residual stream (..., D) and its norm, whose gradients come back as one."""
    if not (is_lean(x) and torch.is_grad_enabled()):
        return x, norm(x)
    return _BesideNorm.apply(x, norm.weight, norm.eps)


def norm_of(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    """The norm of x (..., D) alone."""
    if not (is_lean(x) and torch.is_grad_enabled()):
        return norm(x)
    return _BesideNorm.apply(x.contiguous(), norm.weight, norm.eps)[1]


class _BesideNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """x and x r w, r = 1 / sqrt(mean x^2 + eps)."""
        squares = x.pow(2)
        r = squares.mean(-1, keepdim=True).add_(eps).rsqrt_()
        normed = torch.mul(x, r, out=squares).mul_(weight)
        ctx.save_for_backward(x, r, weight)
        ctx.set_materialize_grads(False)
        return x.view_as(x), normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_normed: Tensor | None) -> tuple[Tensor | None, ...]:
        """d x = grad + g w r - x r^3 mean(g w x); d w = sum g x r, g being the gradient of the norm."""
        if grad_normed is None:
            return grad, None, None
        x, r, weight = ctx.saved_tensors
        scaled = torch.mul(x, r)
        grad_weight = scaled.mul_(grad_normed).sum(tuple(range(x.ndim - 1)))
        through = grad_normed * weight
        along = torch.mul(through, x, out=scaled).sum(-1, keepdim=True)
        slope = (-0.5 * along * r.pow(3)).div_(x.shape[-1]).mul_(2)
        through.mul_(r)
        if grad is not None:
            through += grad
        return through.add_(torch.mul(x, slope, out=scaled)), grad_weight, None


def residual(x: Tensor, change: Tensor) -> Tensor:
    """x + change, in the memory of the change where nobody else reads it: that of a product or of the experts."""
    return change.add_(x) if is_lean(x) and is_lean(change) else x + change


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    if is_lean(gate) and torch.is_grad_enabled():
        return _SwiGLU.apply(gate, up)
    return F.silu(gate) * up


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad_gate, grad_up = torch.empty_like(grad), torch.empty_like(grad)
        _swiglu_gradients(grad, gate, up, grad_gate, grad_up)
        return grad_gate, grad_up


def _swiglu_gradients(grad: Tensor, gate: Tensor, up: Tensor, grad_gate: Tensor, grad_up: Tensor) -> None:
    """Write both gradients of silu(gate) * up; to take silu again costs less than to keep it."""
    torch.ops.aten.silu.out(gate, out=grad_up)
    grad_up.mul_(grad)
    torch.mul(grad, up, out=grad_gate)
    torch.ops.aten.silu_backward.grad_input(grad_gate, gate, grad_input=grad_gate)


class ExpertsLayer(torch.autograd.Function):
    """Tokens sorted by expert, one SwiGLU for each expert's segment, and the sum of each token's, weighed."""

    @staticmethod
    def forward(
        ctx: Any, x_MD: Tensor, weights_MA: Tensor, gate_up_EYD: Tensor, down_EDI: Tensor,
        order: Tensor, place: Tensor, counts: list[int],
    ) -> Tensor:  # fmt: skip
        """`order` (M A,) sorts the choices by expert, `place` is its inverse; Y = 2 I."""
        active, width = weights_MA.shape[1], down_EDI.shape[2]
        sorted_x = x_MD.index_select(0, order.div(active, rounding_mode="floor"))
        first, made = x_MD.new_empty(len(order), 2 * width), torch.empty_like(sorted_x)
        h = x_MD.new_empty(len(order), width)
        for rows, both, inner, out, gate_up, down in zip(
            *(each.split(counts) for each in (sorted_x, first, h, made)), gate_up_EYD, down_EDI, strict=True
        ):
            gate, up = torch.mm(rows, gate_up.t(), out=both).chunk(2, -1)
            torch.ops.aten.silu.out(gate, out=inner)
            torch.mm(inner.mul_(up), down.t(), out=out)
        total = torch.empty_like(x_MD)
        scratch = x_MD.new_empty(min(PART, len(x_MD)) * active, x_MD.shape[1])
        for part in parts(len(x_MD), PART):
            weights = weights_MA[part, :, None]
            own = _gathered(made, place.view(-1, active)[part], scratch)
            _summed(own.mul_(weights), total[part])
        ctx.save_for_backward(sorted_x, first, h, made, weights_MA, gate_up_EYD, down_EDI, order, place)
        ctx.counts = counts
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_MD: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of tokens, weights and both matrices of all experts."""
        sorted_x, first, h, made, weights_MA, gate_up, down, order, place = ctx.saved_tensors
        counts, active = ctx.counts, weights_MA.shape[1]
        slots = place.view(-1, active)
        scratch = grad_MD.new_empty(min(PART, len(slots)) * active, grad_MD.shape[1])
        grad_weights = torch.empty_like(weights_MA)
        for part in parts(len(slots), PART):
            own = _gathered(made, slots[part], scratch)
            torch.sum(own.mul_(grad_MD[part, None]), -1, out=grad_weights[part])
        grad_made = grad_MD.index_select(0, order.div(active, rounding_mode="floor"))
        grad_made.mul_(weights_MA.flatten().index_select(0, order)[:, None])
        grad_up, grad_down = torch.empty_like(gate_up), torch.empty_like(down)
        grad_h, grad_first = torch.empty_like(h), torch.empty_like(first)
        rows = (each.split(counts) for each in (grad_made, h, grad_h, first, grad_first, sorted_x))
        for expert, (grad, inner, grad_inner, both, grad_both, given) in enumerate(zip(*rows, strict=True)):
            torch.mm(grad, down[expert], out=grad_inner)
            torch.mm(grad.t(), inner, out=grad_down[expert])
            _swiglu_gradients(grad_inner, *both.chunk(2, -1), *grad_both.chunk(2, -1))
            torch.mm(grad_both.t(), given, out=grad_up[expert])
            torch.mm(grad_both, gate_up[expert], out=grad)  # which is not needed any more
        grad_x = torch.empty_like(grad_MD)
        slots = slots.sort(1).values if active > 2 else slots  # in the order of experts
        for part in parts(len(slots), PART):
            _summed(_gathered(grad_made, slots[part], scratch), grad_x[part])
        return grad_x, grad_weights, grad_up, grad_down, None, None, None


def _gathered(rows: Tensor, index_MA: Tensor, scratch: Tensor) -> Tensor:
    """rows[index] (M, A, D), in the scratch."""
    out = scratch[: index_MA.numel()]
    torch.index_select(rows, 0, index_MA.reshape(-1), out=out)
    return out.view(*index_MA.shape, -1)


def _summed(each_MAD: Tensor, out_MD: Tensor) -> None:
    first, *others = each_MAD.unbind(1)
    out_MD.copy_(first)
    for other in others:
        out_MD += other


class RotatedHeads(torch.autograd.Function):
    """Queries (B, T, H, X) -> (B, H, T, X), the last R of each head turned by a complex rotation (T, R/2)."""

    @staticmethod
    def forward(ctx: Any, q_BTHX: Tensor, rotation: Tensor, content: int) -> Tensor:
        """`content` is N."""
        ctx.save_for_backward(rotation)
        ctx.content = content
        out = q_BTHX.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        _pairs(out[..., content:]).mul_(rotation)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BHTX: Tensor) -> tuple[Tensor | None, ...]:
        """Turned back, and in the order of the product that the queries came from."""
        (rotation,) = ctx.saved_tensors
        content = ctx.content
        batch, heads, length, size = grad_BHTX.shape
        back = grad_BHTX.new_empty(batch, length, heads, size)
        turned = back.transpose(1, 2)
        turned[..., :content] = grad_BHTX[..., :content]
        rotary = grad_BHTX[..., content:].clone(memory_format=torch.contiguous_format)
        _pairs(rotary).mul_(rotation.conj())
        turned[..., content:] = rotary
        return back, None, None


def _pairs(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


class KeysAndValues(torch.autograd.Function):
    """Expanded latents (B, T, H, N + V) and the shared rotary key (B, T, R) -> keys and values of each head.

    These are (B, H, T, X) and (B, H, T, V).
    """

    @staticmethod
    def forward(ctx: Any, expanded_BTHX: Tensor, rotary_BTR: Tensor, content: int) -> tuple[Tensor, Tensor]:
        """`content` is N."""
        ctx.content = content
        expanded = expanded_BTHX.transpose(1, 2)
        keys = expanded.new_empty(*expanded.shape[:3], content + rotary_BTR.shape[-1])
        keys[..., :content] = expanded[..., :content]
        keys[..., content:] = rotary_BTR[:, None]
        return keys, expanded[..., content:].clone(memory_format=torch.contiguous_format)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_keys: Tensor, grad_values: Tensor) -> tuple[Tensor | None, ...]:
        """In the order of the product that the expanded latents came from."""
        content = ctx.content
        batch, heads, length, size = grad_values.shape
        back = grad_values.new_empty(batch, length, heads, content + size)
        turned = back.transpose(1, 2)
        turned[..., :content] = grad_keys[..., :content]
        turned[..., content:] = grad_values
        return back, grad_keys[..., content:].sum(1), None


class ShortAttention(torch.autograd.Function):
    """Causal attention in blocks of queries, each against the keys up to its end, with the weights kept.

    For short sequences this takes half the time of the fused kernel.
    """

    @staticmethod
    def forward(ctx: Any, q_ZTX: Tensor, k_ZTX: Tensor, v_ZTV: Tensor, scale: float) -> Tensor:
        """Queries and keys (Z, T, X), values (Z, T, V) -> (Z, T, V); later tokens unseen."""
        length = q_ZTX.shape[1]
        future = q_ZTX.new_full((BLOCK, BLOCK), -math.inf).triu_(1)
        out_ZTV = torch.empty_like(v_ZTV)
        kept = []
        for start, end in _blocks(length):
            scores = q_ZTX.new_empty(len(q_ZTX), end - start, end)
            keys = k_ZTX[:, :end].transpose(1, 2)
            torch.baddbmm(scores, q_ZTX[:, start:end], keys, beta=0, alpha=scale, out=scores)
            scores[..., start:] += future[: end - start, : end - start]
            kept.append(torch.softmax(scores, -1, out=scores))
            out_ZTV[:, start:end] = scores @ v_ZTV[:, :end]
        ctx.save_for_backward(q_ZTX, k_ZTX, v_ZTV, *kept)
        ctx.scale = scale
        return out_ZTV

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ZTV: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the output (Z, T, V) -> those of queries, keys and values, from the kept weights."""
        q, k, v, *kept = ctx.saved_tensors
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        most = max(weights.numel() for weights in kept)
        scratch, products = q.new_empty(most), q.new_empty(max(k.numel(), v.numel()))
        for (start, end), weights in zip(_blocks(q.shape[1]), kept, strict=True):
            grad = grad_ZTV[:, start:end]
            grad_v[:, :end] += _product(weights.transpose(1, 2), grad, products)
            slope = _product(grad, v[:, :end].transpose(1, 2), scratch)
            torch._softmax_backward_data(slope, weights, -1, weights.dtype, grad_input=slope)
            slope.mul_(ctx.scale)
            grad_q[:, start:end] = _product(slope, k[:, :end], products)
            grad_k[:, :end] += _product(slope.transpose(1, 2), q[:, start:end], products)
        return grad_q, grad_k, grad_v, None


def _product(x: Tensor, y: Tensor, scratch: Tensor) -> Tensor:
    """x @ y (Z, rows, columns), in the scratch."""
    shape = x.shape[0], x.shape[1], y.shape[2]
    out = scratch[: math.prod(shape)].view(shape)
    return torch.bmm(x, y, out=out)


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]
