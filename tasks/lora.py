"""LoRA as a setting of training: a policy learns by an adapter, and its weights stand still until the stage ends."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from pydantic import Field
from torch import nn

from data.lineage import WHEN_SET, Policy, Settings, seed_of
from model.adapter import adapt
from tasks.rollout import Speaker, load

M = TypeVar("M", bound=nn.Module)


class LoraConfig(Settings):
    """An adapter of low rank beside linear layers. Names are peft's."""

    r: int = Field(16, ge=1, description="rank")
    lora_alpha: int = Field(32, ge=1, description="the adapter's product is scaled by lora_alpha / r")
    target_modules: list[str] = Field(
        [], description='linear layers by the last part of their name, such as "q_proj"; none: all but the head'
    )


LORA: Any = Field(
    None,
    description="learn by an adapter (LoRA, a base of transformers) that is merged at the end; left out: all weights",
    json_schema_extra=WHEN_SET,
)


def learning(policy: Policy, device: str, lora: LoraConfig | None, seed: int) -> Speaker:
    """Read a policy that is to be trained, with an adapter in it where one is asked for."""
    speaker = load(policy, device, frozen_type(lora, device))
    return Speaker(adapted(speaker.model, lora, seed), speaker.tokenizer)


def frozen_type(lora: LoraConfig | None, device: str) -> torch.dtype:
    """The type that a policy is read in: weights that stand still need no more than products on a GPU take."""
    return torch.bfloat16 if lora and device.startswith("cuda") else torch.float32


def adapted(model: M, lora: LoraConfig | None, seed: int) -> M:
    """Put an adapter into a model where one is asked for. Raises ValueError as `adapt` does."""
    if lora:
        adapt(model, **lora.model_dump(), seed=seed_of(seed, "adapter"))
    return model
