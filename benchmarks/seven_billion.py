"""Memory of one GRPO step on a 7 B base with LoRA, by part: python -m benchmarks.seven_billion

The shape is Qwen2.5-7B's, the weights are random and made on the GPU. The step is the project's own: 16 completions
of 2,048 tokens with their prompt, sampled and judged, then an update with activation checkpointing and a reference.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.results import record
from benchmarks.shapes import PACKAGES, SEED, device
from data.problems import generate
from data.prompts import render
from data.records import Trajectory
from model.adapter import adapt
from model.foreign import ForeignModel
from model.tokenizer import Tokenizer
from tasks.grpo import GRPOConfig, Learner, learner, update
from tasks.lora import LoraConfig
from tasks.rollout import Speaker, rollout

QWEN: dict[str, Any] = {
    "model_type": "qwen2", "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944,
    "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 32_768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False, "use_sliding_window": False,
}  # fmt: skip
ROWS, TOKENS = 16, 2048
GIB = 2**30


class Memory:
    """Bytes that tensors of a GPU hold, and the most that they held at once."""

    def __init__(self) -> None:
        self.parts: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.peak = 0

    @contextmanager
    def part(self, kept: str, passing: str = "") -> Iterator[None]:
        """Count what a block leaves under one name, and what it held above that meanwhile under another."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, begun = torch.cuda.memory_allocated(), time.perf_counter()
        yield
        torch.cuda.synchronize()
        after, most = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
        self.parts[kept] = after - before
        if passing:
            self.parts[passing] = most - max(after, before)
        self.seconds[kept] = time.perf_counter() - begun
        self.peak = max(self.peak, most)


def speaker_of(shape: dict[str, Any], where: str, kind: torch.dtype) -> Speaker:
    """A policy of random weights, with the tokenizer of the miniature's base, whose ids are the first of many."""
    torch.manual_seed(0)
    fields = {name: value for name, value in shape.items() if name != "model_type"}
    config = AutoConfig.for_model(shape["model_type"], **fields)
    with torch.device(where):
        inner = AutoModelForCausalLM.from_config(config, dtype=kind, attn_implementation="sdpa")
    return Speaker(ForeignModel(inner), Tokenizer.load(SEED))


def settings(rows: int, tokens: int, lora: LoraConfig) -> GRPOConfig:
    """One question, `rows` completions, and a reference."""
    return GRPOConfig(
        template="zero", max_steps=1, prompts_per_step=1, num_generations=rows, steps_per_generation=1,
        max_completion_length=tokens, beta=0.001, learning_rate=1e-5, gradient_checkpointing=True, save_steps=1,
        ref_model_sync_steps=1, lora=lora,
    )  # fmt: skip


def sampled(apprentice: Learner) -> list[Trajectory]:
    """A group of completions, judged, half of them with a positive advantage."""
    [problem] = generate({"chain": 1.0}, 1, 1, "train")
    config = apprentice.config
    prompt = len(apprentice.speaker.tokenizer.encode(render(problem.prompt, config.template)))
    drawing = config.sampling.model_copy(update={"max_completion_length": config.max_completion_length - prompt})
    [group] = rollout(apprentice.speaker, [problem], drawing, config, stream=("memory",))
    return [replace(each, advantage=1.0 if number % 2 else -1.0) for number, each in enumerate(group)]


def cache_bytes(shape: dict[str, Any], rows: int, tokens: int) -> int:
    """Keys and values in bfloat16."""
    head = shape["hidden_size"] // shape["num_attention_heads"]
    return 2 * shape["num_hidden_layers"] * rows * tokens * shape["num_key_value_heads"] * head * 2


def main() -> None:
    if not torch.cuda.is_available():
        print("no GPU here: nothing is measured")
        return
    memory, config = Memory(), settings(ROWS, TOKENS, LoraConfig())
    with memory.part("weights, bf16"):
        speaker = speaker_of(QWEN, "cuda", torch.bfloat16)
    with memory.part("adapter and its reference"):
        assert config.lora is not None
        adapt(speaker.model, **config.lora.model_dump())
        apprentice = learner(speaker, config, "cuda")
    with memory.part("kept after sampling", "cache, logits and graphs in sampling"):
        group = sampled(apprentice)
    with memory.part("optimiser", "activations and gradients"):
        metrics = update(apprentice, group, 1)
    parameters = sum(weight.numel() for weight in speaker.model.parameters())
    lengths = [len(each.completion.ids) for each in group]
    print(f"{parameters:,} parameters, {sum(lengths):,} sampled tokens, gradient norm {metrics['grad_norm']:.3g}")
    print({name: f"{seconds:.1f} s" for name, seconds in memory.seconds.items()})
    memory.parts["cache, keys and values of 16 x 2,048"] = cache_bytes(QWEN, ROWS, TOKENS)
    for name, size in memory.parts.items():
        record(
            f"7 B, LoRA, {name}", size / GIB, unit="GiB", goal="reported", device=device(), packages=PACKAGES,
        )  # fmt: skip
    record(
        "7 B, LoRA, GRPO step of 16 x 2,048 tokens, peak", memory.peak / GIB, unit="GiB", goal="<= 75",
        device=device(), packages=(*PACKAGES, "peft"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
