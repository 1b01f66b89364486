"""Log-probabilities of given tokens straight from hidden states, in chunks of tokens.

Shapes: N tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.draw import HAS_TRITON

KEPT_BYTES = 2**26  # log-softmax values up to this size are kept for the backward pass, not computed again

KERNEL_CHUNK = 8192  # tokens whose logits exist at a time where kernels read them


def token_logprobs(
    hidden_ND: Tensor,
    head_VD: Tensor,
    targets_N: Tensor,
    *,
    temperature: float = 1.0,
    chunk: int = 1024,
    entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """log softmax(hidden head^T / temperature) at the targets, and on request the entropy of it in nats.

    Both are (N,) float32. The log-probabilities are differentiable in hidden and head, the entropy is not.
    Logits exist for `chunk` tokens at a time; where all of them would be large, the backward pass computes
    them again.
    """
    if hidden_ND.is_cuda and HAS_TRITON:
        values, spread = _KernelLogprobs.apply(hidden_ND, head_VD, targets_N, temperature)
        return values, spread if entropy else None
    return _TokenLogprobs.apply(hidden_ND, head_VD, targets_N, temperature, chunk, entropy)


class _KernelLogprobs(torch.autograd.Function):
    """The same where there are kernels: logits stay in the type of the product, and are read once each way."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """(N, D), (V, D) and (N,) to log-probabilities and entropies (N,), float32."""
        from model import kernels

        kind = _product_type(hidden)
        hidden_, head_ = hidden.to(kind), head.to(kind)
        result = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        norm, entropy = torch.empty_like(result), torch.empty_like(result)
        for part in parts(len(targets), KERNEL_CHUNK):
            kernels.logprobs(
                hidden_[part] @ head_.t(), targets[part], temperature, result[part], norm[part], entropy[part]
            )
        ctx.save_for_backward(hidden, head, targets, norm)
        ctx.temperature, ctx.kind = temperature, kind
        ctx.mark_non_differentiable(entropy)
        return result, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient (N,) to those of hidden (N, D) and head (V, D); the logits are computed again."""
        from model import kernels

        hidden, head, targets, norm = ctx.saved_tensors
        hidden_, head_ = hidden.to(ctx.kind), head.to(ctx.kind)
        grad_hidden = torch.empty_like(hidden_)
        grad_head = torch.zeros_like(head, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for part in parts(len(targets), KERNEL_CHUNK):
            logits = hidden_[part] @ head_.t()
            kernels.logits_gradient_(logits, targets[part], ctx.temperature, norm[part], grad[part])
            torch.mm(logits, head_, out=grad_hidden[part])
            if grad_head is not None:
                grad_head += logits.t() @ hidden_[part]
        return grad_hidden.to(hidden.dtype), None if grad_head is None else grad_head.to(head.dtype), None, None


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        temperature: float,
        chunk: int,
        wants_entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """(N, D), (V, D) and (N,) to log-probabilities (N,), float32, and where wanted the entropies (N,)."""
        kind = _product_type(hidden)
        keep = any(ctx.needs_input_grad) and 4 * len(targets) * len(head) <= KEPT_BYTES
        result = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        entropy = torch.empty_like(result) if wants_entropy else None
        kept = []
        for part in parts(len(targets), chunk):
            logprobs = _log_softmax(hidden[part].to(kind), head.to(kind), temperature)
            result[part] = logprobs.gather(1, targets[part, None])[:, 0]
            if entropy is not None:
                entropy[part] = -torch.linalg.vecdot(logprobs.exp(), logprobs)
            if keep:
                kept.append(logprobs)
        ctx.save_for_backward(hidden, head, targets, *kept)
        ctx.temperature, ctx.chunk, ctx.kind = temperature, chunk, kind
        if entropy is not None:
            ctx.mark_non_differentiable(entropy)
        return result, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        """d logprob / d logits = (onehot - softmax) / temperature."""
        hidden, head, targets, *kept = ctx.saved_tensors
        hidden_, head_ = hidden.to(ctx.kind), head.to(ctx.kind)
        grad_hidden = torch.empty_like(hidden_)
        grad_head = torch.zeros_like(head, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        scratch = torch.empty_like(kept[0]) if kept else None
        for number, part in enumerate(parts(len(targets), ctx.chunk)):
            logprobs = kept[number] if kept else _log_softmax(hidden_[part], head_, ctx.temperature)
            slope = (grad[part] / ctx.temperature)[:, None]
            probs = logprobs.exp_() if scratch is None else torch.exp(logprobs, out=scratch[: len(logprobs)])
            grad_logits = probs.mul_(-slope).scatter_add_(1, targets[part, None], slope).to(ctx.kind)
            torch.mm(grad_logits, head_, out=grad_hidden[part])
            if grad_head is not None:
                grad_head += grad_logits.t() @ hidden_[part]
        gradients = grad_hidden.to(hidden.dtype), None if grad_head is None else grad_head.to(head.dtype)
        return *gradients, None, None, None, None


def _log_softmax(hidden: Tensor, head: Tensor, temperature: float) -> Tensor:
    logits = (hidden @ head.t()).float()
    return torch.log_softmax(logits / temperature if temperature != 1 else logits, -1)


def parts(total: int, chunk: int) -> list[slice]:
    """`total` rows in order, `chunk` at a time."""
    return [slice(start, start + chunk) for start in range(0, total, chunk)]


def _product_type(hidden: Tensor) -> torch.dtype:
    """The type that products are taken in: autocast's where it is on."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
