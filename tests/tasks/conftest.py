"""Small real parts: a model of two layers with the world's tokenizer, problems, and sessions without servers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from data.problems import generate
from data.records import Completion, Finish, Problem, Reward, Trajectory
from model.config import ModelConfig
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from tasks.rollout import Speaker
from tasks.sft import build_tokenizer
from tasks.stage import Session, session

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_nextn_predict_layers": 0,
    "num_attention_heads": 2,
    "n_shared_experts": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 0,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
}


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Small products are faster on one thread, and their sums then have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return build_tokenizer()


@pytest.fixture
def small(tokenizer: Tokenizer) -> Callable[..., Speaker]:
    """small(field=value, ...): a seeded policy of two layers, one of them with experts."""

    def make(seed: int = 0, **changes: Any) -> Speaker:
        torch.manual_seed(seed)
        tokens = {"vocab_size": tokenizer.vocab_size, "bos_token_id": tokenizer.bos_id,
                  "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}  # fmt: skip
        return Speaker(Transformer(ModelConfig(**{**SMALL, **tokens, **changes})).eval(), tokenizer)

    return make


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Session]:
    """A plain session whose artifacts live under the test's folder."""
    with session(Session(tmp_path / "runs", "plain")) as opened:
        yield opened


@pytest.fixture
def problems() -> Callable[..., list[Problem]]:
    """problems(count, families, seed): training problems of the miniature world."""

    def make(count: int, families: Mapping[str, float] | None = None, seed: int = 1) -> list[Problem]:
        return list(generate(families or {"chain": 1.0}, count, seed, "train"))

    return make


@pytest.fixture
def trajectory() -> Callable[..., Trajectory]:
    """trajectory(problem, ids, logprobs, ...): one of which only what an update reads is meant."""

    def make(
        problem: Problem,
        ids: Sequence[int],
        logprobs: Sequence[float],
        advantage: float = 0.0,
        finish: Finish = "stop",
    ) -> Trajectory:
        completion = Completion(tuple(ids), tuple(logprobs), "", finish)
        return Trajectory(f"{problem.id}/0", problem, completion, None, None, None, Reward(0.0), None, 0,
                          advantage=advantage)  # fmt: skip

    return make


@pytest.fixture
def digest() -> Callable[[nn.Module], str]:
    """digest(model): SHA-256 over its parameters and buffers."""

    def make(model: nn.Module) -> str:
        summed = hashlib.sha256()
        for name, tensor in sorted(model.state_dict().items()):
            summed.update(name.encode() + tensor.numpy().tobytes())
        return summed.hexdigest()

    return make
