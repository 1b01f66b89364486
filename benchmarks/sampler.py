"""Tokens a second, against `generate` of transformers on the same weights; a decode step, against its bytes.

python -m benchmarks.sampler             what the machine can
python -m benchmarks.sampler decode      one of: sampling, decode, drafts
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from benchmarks.results import paired, record
from benchmarks.shapes import PACKAGES, base, device, peer, v3_shaped
from benchmarks.text import windows
from model.decode import decoder_for
from model.draw import draw
from model.sampler import Drafts, sample
from model.transformer import Transformer

AT_ONCE = {"temperature": 1.0, "top_p": 1.0}


def sampling_on_cpu() -> None:
    """The miniature's base, 32 prompts x 8, up to 128 new tokens; tokens that were wanted, over time."""
    model, tokenizer = base()
    other = peer(model, "grouped_mm").eval()
    prompts = [row[:24].tolist() for row in windows(32)]
    seeds = [list(range(8 * number, 8 * number + 8)) for number in range(32)]
    counts: dict[str, int] = {}

    def ours() -> None:
        groups = sample(model, prompts, seeds, max_tokens=128, stop_ids={tokenizer.eos_id}, **AT_ONCE)
        counts["ours"] = sum(len(one.ids) for group in groups for one in group)

    def theirs() -> None:
        ids = torch.tensor(prompts).repeat_interleave(8, 0)
        counts["peer"] = generated(other, ids, 128, tokenizer.eos_id, tokenizer.pad_id)

    ours()
    a, b, _ = paired(ours, theirs, rounds=5)
    record(
        "sampling, miniature base, 32 x 8, up to 128 new tokens", counts["ours"] / a, counts["peer"] / b,
        unit="tokens/s", goal=">= 4x", device=device(), packages=PACKAGES,
    )  # fmt: skip


def generated(other: Any, ids: torch.Tensor, tokens: int, eos: int | None, pad: int) -> int:
    """How many tokens `generate` makes, those after an end not counted."""
    other.generation_config.eos_token_id = eos
    with torch.inference_mode():
        out = other.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=True, temperature=1.0,
            top_k=0, top_p=1.0, pad_token_id=pad, use_cache=True,
        )[:, ids.shape[1] :]  # fmt: skip
    if eos is None:
        return out.numel()
    return int(((out == eos).cumsum(1) - (out == eos).int() == 0).sum())


def sampling_on_gpu(tokens: int = 1024, rounds: int = 2) -> None:
    """The V3-shaped model in bfloat16, 64 prompts x 16, as many new tokens for all."""
    model = v3_shaped().eval()
    other = peer(model).eval()
    prompts = torch.randint(0, 32_000, (64, 64), generator=torch.Generator().manual_seed(0))
    seeds = [list(range(16 * number, 16 * number + 16)) for number in range(64)]

    def ours(limit: int = tokens) -> None:
        sample(model, prompts.tolist(), seeds, max_tokens=limit, stop_ids=(), max_batch=1024, **AT_ONCE)
        torch.cuda.synchronize()

    def theirs(limit: int = tokens) -> None:
        generated(other, prompts.repeat_interleave(16, 0).cuda(), limit, None, 0)
        torch.cuda.synchronize()

    ours(32), theirs(8)
    a, b, ratio = paired(ours, theirs, rounds)
    made = 1024 * tokens
    record(
        f"sampling, V3-shaped, bf16, 64 x 16, {tokens} new tokens", made / a, made / b, ratio=ratio,
        unit="tokens/s", goal=">= 10x", device=device(), packages=PACKAGES,
    )  # fmt: skip


def copy_bandwidth() -> float:
    """Bytes a second that a copy reads and writes."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / on_gpu(lambda: target.copy_(source))


def on_gpu(work: Callable[[], Any], times: int = 20) -> float:
    """Median seconds of a piece of work, by the GPU's clock, after it has run some times."""
    for _ in range(3):
        work()
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(times)]
    for begin, end in marks:
        begin.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return median(begin.elapsed_time(end) for begin, end in marks) / 1000


@torch.inference_mode()
def decode_step(context: int = 8192, rows: int = 64) -> None:
    """A step of 64 rows of 8k tokens, against the time that its weights and its cache take to be copied."""
    model = v3_shaped().eval()
    from model.cuda import CudaDecoder, SlotCache  # needs Triton

    decoder = decoder_for(model, 1.0)
    assert isinstance(decoder, CudaDecoder)
    cache = decoder.new_cache(rows, context + 256)
    assert isinstance(cache, SlotCache)
    config = model.config
    a_token = config.num_hidden_layers * config.latent_dim * 2
    record(
        "cache, V3-shaped, bf16", cache.data[:, 0, 0].nbytes, a_token, unit="bytes/token",
        goal="== 2 x layers x (kv_lora_rank + qk_rope_head_dim)", device=device(), packages=PACKAGES,
    )  # fmt: skip
    cache.data.normal_()
    cache.count = rows
    cache.slots.fill_(context)
    ids, chance = torch.randint(0, 32_000, (rows,), device="cuda"), torch.rand(rows, device="cuda")

    def step() -> None:
        logits, _ = decoder.captured("step", decoder.verify, cache, ids[:, None])
        draw(logits[:, 0], chance, False, 1.0)

    weights = sum(p.nbytes for p in model.parameters()) - model.model.embed_tokens.weight.nbytes
    moved = weights + rows * (context + 1) * a_token
    bandwidth, took = copy_bandwidth(), on_gpu(step)
    print(f"copy {bandwidth / 1e12:.2f} TB/s; the step moves {moved / 1e9:.2f} GB in {took * 1000:.2f} ms")
    record(
        "decode step, V3-shaped, bf16, 64 rows of 8k", 100 * moved / bandwidth / took, unit="% of copy bandwidth",
        goal=">= 60 %", device=device(), packages=PACKAGES,
    )  # fmt: skip


def drafting(steps: int = 700, length: int = 1152) -> None:
    """Text of the miniature's crawl, by a V3-shaped model that was trained on it with its multi-token layer.

    It learns from all windows but the first eight, whose beginnings are the prompts.
    """
    from benchmarks.model import train_on_text

    model = v3_shaped(multi_token=1)
    train_on_text(model, steps, windows(length=length)[8:], rows=48)
    model.eval()
    for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        for rows in (1, 8):
            draft_once(model, name, temperature, rows)


def draft_once(model: Transformer, name: str, temperature: float, rows: int, tokens: int = 1024) -> None:
    prompts = [row[:32].tolist() for row in windows(8, length=1152)[-rows:]]
    seeds = [[number] for number in range(rows)]
    drafts = Drafts()
    kept: dict[str, Any] = {}

    def run(name: str, drafts: Drafts | None) -> None:
        kept[name] = sample(
            model, prompts, seeds, max_tokens=tokens, stop_ids=(), temperature=temperature, top_p=1.0, drafts=drafts
        )
        torch.cuda.synchronize()

    run("with", drafts), run("without", None)
    a, b, ratio = paired(lambda: run("with", drafts), lambda: run("without", None), rounds=5)
    same = [one[0].ids == other[0].ids for one, other in zip(kept["with"], kept["without"], strict=True)]
    accepted = drafts.accepted / drafts.made
    print(f"accepted {accepted:.3f}; equal samples {sum(same)} of {rows}")
    record(
        f"drafts, V3-shaped, bf16, {name}, batch {rows}", rows * tokens / a, rows * tokens / b, ratio=ratio,
        unit="tokens/s", goal=">= 1.5x", device=device(), packages=PACKAGES,
    )  # fmt: skip
    record(
        f"drafts accepted, V3-shaped, bf16, {name}, batch {rows}", 100 * accepted,
        unit="%", goal="85 to 90 in the V3 report", device=device(), packages=PACKAGES,
    )  # fmt: skip
    record(
        f"drafts, cost of a round, V3-shaped, bf16, {name}, batch {rows}", (1 + accepted) / ratio,
        unit="steps without drafts", goal=f">= {least_round(model):.2f} by the weights it reads",
        device=device(), packages=PACKAGES,
    )  # fmt: skip


def least_round(model: Transformer) -> float:
    """Weights that a round of drafts reads, over those of a step: the multi-token layer, and the head once more."""
    size = model.lm_head.weight.numel()
    drafting = sum(p.numel() for p in model.model.mtp.parameters()) if model.model.mtp is not None else 0
    step = sum(p.numel() for p in model.parameters()) - model.model.embed_tokens.weight.numel() - drafting
    return 1 + (drafting + size) / step


def main(wanted: list[str]) -> None:
    if not torch.cuda.is_available():
        sampling_on_cpu()
        return
    parts = {"decode": decode_step, "drafts": drafting, "sampling": sampling_on_gpu}
    for name in wanted or parts:
        parts[name]()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main(sys.argv[1:])
