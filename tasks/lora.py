"""LoRA as a setting of training: a policy learns by an adapter, and its weights stand still until the stage ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import Field
from torch import nn

from data.lineage import WHEN_SET, Policy, Settings, seed_of
from model.adapter import adapt
from tasks.rollout import Speaker, speaker_in

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
    return learning_in(policy.checkpoint, device, lora, seed)


def learning_in(folder: Path, device: str, lora: LoraConfig | None, seed: int) -> Speaker:
    """`learning` of a checkpoint folder."""
    speaker = speaker_in(folder, device, frozen_type(lora, device))
    return Speaker(adapted(speaker.model, lora, seed), speaker.tokenizer)


def frozen_type(lora: LoraConfig | None, device: str) -> torch.dtype:
    """The type that a policy is read in: weights that stand still need no more than products on a GPU take."""
    return torch.bfloat16 if lora and device.startswith("cuda") else torch.float32


def adapted_bytes(parameters: int, device: str) -> int:
    """Bytes of so many weights that stand still on a device, without the adapter, which is small beside them."""
    return parameters * frozen_type(LoraConfig(), device).itemsize


def adapted(model: M, lora: LoraConfig | None, seed: int) -> M:
    """Put an adapter into a model where one is asked for. Raises ValueError as `adapt` does."""
    if lora:
        adapt(model, **lora.model_dump(), seed=seed_of(seed, "adapter"))
    return model
