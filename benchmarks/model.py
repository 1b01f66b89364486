"""The model beside transformers' on the same weights: equal logits, faster steps; and how the experts balance.

python -m benchmarks.model             what the machine can
python -m benchmarks.model training    one of: parity, training, balance
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.results import paired, record
from benchmarks.shapes import ACTIVE, PACKAGES, SEED, V3_SHAPED, base, device, peer, v3_shaped
from benchmarks.text import windows
from model import checkpoint
from model.loss import token_logprobs
from model.moe import balance_loss
from model.optim import adamw
from model.transformer import Transformer

PEAK = 989e12  # of an H100 in bfloat16, dense, by its datasheet


def parity() -> None:
    """Largest difference of the miniature base's logits to those of transformers, over the largest logit."""
    model, _ = base()
    other = peer(model, "eager")
    tokens = windows(4)
    with torch.no_grad():
        ours, theirs = model(tokens), other(tokens).logits
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    record(
        "logits, miniature base, float32",
        difference,
        unit="relative difference",
        goal="<= 1e-4",
        device=device(),
        packages=PACKAGES,
    )


def our_step(model: Transformer, tokens: Tensor, optimizer: Any) -> Callable[[], object]:
    def step() -> float:
        hidden = model.hidden(tokens)[:, :-1].flatten(0, 1)
        loss = -token_logprobs(hidden, model.lm_head.weight, tokens[:, 1:].flatten())[0].mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def their_step(model: Any, tokens: Tensor, optimizer: Any) -> Callable[[], object]:
    def step() -> float:
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def training_on_cpu() -> None:
    """Forward, backward and AdamW of the miniature's base on windows of the crawl.

    Beside the peer as it is, and where there is a C++ compiler, beside its fastest setting, which is compiled; ours
    is never compiled there.
    """
    tokens = windows(40)
    compiled = {"": True} if shutil.which("g++") else {}
    for name, compiles in {**compiled, ", peer not compiled": False}.items():
        model, _ = base()
        other = peer(model, "grouped_mm").train()
        model.train()
        optimizers = [adamw(each, 1e-5) for each in (model, other)]
        ours = our_step(model, tokens, optimizers[0])
        theirs = their_step(torch.compile(other) if compiles else other, tokens, optimizers[1])
        print("losses", ours(), theirs(), ours(), theirs())
        a, b, ratio = paired(ours, theirs, rounds=9)
        record(
            f"training step, miniature base, 40 x 192{name}", tokens.numel() / a, tokens.numel() / b, ratio=ratio,
            unit="tokens/s", goal=">= 1.5x", device=device(), packages=PACKAGES,
        )  # fmt: skip


def training_on_gpu() -> None:
    """The V3-shaped model in bfloat16, 64 x 1,024 tokens, each compiled; the peer with grouped_mm experts."""
    torch.set_float32_matmul_precision("high")
    model = v3_shaped().train()
    other = peer(model).train()
    tokens = torch.randint(0, 32_000, (64, 1024), generator=torch.Generator().manual_seed(0)).cuda()
    optimizers = [adamw(each, 1e-5) for each in (model, other)]
    model.compile_blocks()
    ours = synchronised(our_step(model, tokens, optimizers[0]))
    theirs = synchronised(their_step(torch.compile(other), tokens, optimizers[1]))
    print("ours", ours(), ours(), flush=True)
    print("theirs", theirs(), theirs(), flush=True)
    a, b, ratio = paired(ours, theirs, rounds=7)
    record(
        "training step, V3-shaped, bf16, 64 x 1,024", tokens.numel() / a, tokens.numel() / b, ratio=ratio,
        unit="tokens/s", goal=">= 1.5x", device=device(), packages=PACKAGES,
    )  # fmt: skip
    share = 100 * flops(1024) * tokens.numel() / a / PEAK
    record(
        "training step, V3-shaped, model FLOPs utilisation", share, unit="% of 989 TFLOP/s", goal="reported",
        device=device(), packages=PACKAGES,
    )  # fmt: skip


def flops(length: int) -> float:
    """Of a token in training: six an active parameter, and attention over half of the sequence."""
    config = V3_SHAPED
    attention = config.num_attention_heads * (config.qk_head_dim + config.v_head_dim) * length
    return 6 * ACTIVE + 3 * config.num_hidden_layers * attention


def synchronised(work: Callable[[], object]) -> Callable[[], object]:
    def done() -> object:
        result = work()
        torch.cuda.synchronize()
        return result

    return done


def train_on_text(
    model: Transformer, steps: int, text: Tensor, rows: int = 256, gamma: float = 1e-3, rate: float = 5e-4
) -> dict[int, float]:
    """Pretrain on windows of the crawl as `tasks.sft` does, with the multi-token layer.

    Returns the last 100 steps' MaxVio; the weights are left in bfloat16.
    """
    text = text.to(next(model.parameters()).device)
    model.float().train()
    if text.is_cuda:
        model.compile_blocks()
    optimizer = adamw(model, rate)
    order = torch.Generator().manual_seed(0)
    recent: list[dict[int, float]] = []
    for step in range(steps):
        chosen = torch.randint(len(text), (rows,), generator=order).to(text.device)
        tokens, routing = text[chosen], []
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50, (steps - step) / (0.3 * steps))
        with torch.autocast(text.device.type, torch.bfloat16):
            hidden, further = model.hidden_with_mtp(tokens, None, routing)
            head = model.lm_head.weight
            main = -token_logprobs(hidden[:, :-1].flatten(0, 1), head, tokens[:, 1:].flatten())[0].mean()
            ahead = -token_logprobs(further[:, :-1].flatten(0, 1), head, tokens[:, 2:].flatten())[0].mean()
            even = balance_loss(routing, model.config.num_experts_per_tok, 1e-4)
        (main + 0.3 * ahead + even).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent = [*recent, model.update_bias(gamma)][-100:]
        if step % 100 == 99:
            print(f"step {step + 1}: loss {main.item():.3f}, two ahead {ahead.item():.3f}, MaxVio", means(recent))
    model.to(torch.bfloat16)
    return means(recent)


def means(steps: list[dict[int, float]]) -> dict[int, float]:
    return {layer: round(sum(each[layer] for each in steps) / len(steps), 4) for layer in steps[-1]}


def balance(steps: int = 800) -> None:
    """MaxVio of the last 100 steps of pretraining the miniature's base, with the bias moved and without."""
    for gamma in (1e-3, 0.0):
        torch.manual_seed(0)
        seed, _ = checkpoint.load(SEED)
        model = Transformer(seed.config).cuda()
        found = train_on_text(model, steps, windows(), gamma=gamma, rate=3e-3)
        layers = [found[layer] for layer in sorted(found)]
        record(
            f"MaxVio, miniature base, mean of layers, gamma {gamma:g}", sum(layers) / len(layers),
            unit="(max - mean) / mean", goal="<= 0.1" if gamma else "beside it", device=device(), packages=PACKAGES,
        )  # fmt: skip


def main(wanted: list[str]) -> None:
    gpu = torch.cuda.is_available()
    parts = (
        {"training": training_on_gpu, "balance": balance} if gpu else {"parity": parity, "training": training_on_cpu}
    )
    for name in wanted or parts:
        parts[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
