"""LoRA by peft: a model of transformers learns through low-rank products beside its linear layers.

The model's own weights stand still, in bfloat16 on a GPU, and are one copy for training, sampling and the
reference; the adapter is float32. An adapter has no dropout, since a model computes alike whether it samples or
learns. What is saved is the adapter alone while training lasts, and in a checkpoint the merged weights, which any
reader knows, with the adapter beside them in peft's format.

Hu et al. 2021: h = W x + (alpha / r) B A x, with A random and B zero at the start.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from model.foreign import ForeignModel, ForeignReward
from model.language import LanguageModel

FOLDER = "adapter"
"""Folder of a checkpoint that holds the adapter its weights were merged with."""

WHOLE = "lora: a model of DeepSeek-V3's architecture is trained whole; an adapter needs another base"

LEARNS, STANDS = "default", "reference"
"""Names of the adapter that is trained, and of the copy that a reference keeps."""

Adapted = ForeignModel | ForeignReward


def adapt(model: nn.Module, *, r: int, lora_alpha: int, target_modules: Sequence[str] = (), seed: int = 0) -> None:
    """Put an adapter of rank `r` beside linear layers, and freeze all else.

    `target_modules` are the last parts of the layers' names, as in `q_proj`; none takes all linear layers but the
    head. A reward model's head is trained whole. A is drawn by `seed`, the same on every device.
    Raises ValueError for a model that is none of transformers, and for a name that none of its linear layers has.
    """
    from peft import LoraConfig, TaskType, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    check(model, target_modules)
    assert isinstance(model, Adapted)
    reward = isinstance(model, ForeignReward)
    config = LoraConfig(
        r=r,
        lora_alpha=lora_alpha,
        target_modules=sorted(target_modules or linear_layers(model)),
        fan_in_fan_out=any(_is_transposed(layer) for layer in model.inner.modules()),
        task_type=TaskType.SEQ_CLS if reward else TaskType.CAUSAL_LM,
        modules_to_save=["score"] if reward else None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model.inner)
    for layer in model.inner.modules():
        if isinstance(layer, LoraLayer):
            layer.cast_input_dtype_enabled = False  # the product's type is that of the whole pass
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def check(model: nn.Module, target_modules: Sequence[str]) -> None:
    """Raise ValueError as `adapt` does; the model's weights are not looked at."""
    if not isinstance(model, Adapted):
        raise ValueError(WHOLE)
    known = linear_layers(model)
    if unknown := [name for name in target_modules if name not in known]:
        told = ", ".join(known)
        raise ValueError(f"lora.target_modules: no linear layer is called {unknown[0]!r}; there are {told}")


def linear_layers(model: Adapted) -> list[str]:
    """The last parts of the names of a model's linear layers, its head apart, in alphabetical order."""
    backbone = model.inner.base_model
    found = {
        name.rpartition(".")[2]
        for name, layer in backbone.named_modules()
        if isinstance(layer, nn.Linear) or _is_transposed(layer)
    }
    return sorted(found)


def _is_transposed(layer: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, Conv1D)


def is_adapted(model: nn.Module) -> bool:
    """Whether a model learns by an adapter."""
    return isinstance(model, Adapted) and hasattr(model.inner, "peft_config")


def tensors(model: Adapted | Anchor) -> dict[str, Tensor]:
    """What is trained of an adapted model, by peft's names without the adapter's; of an anchor, its copy."""
    if isinstance(model, Anchor):
        return _of(model.policy, STANDS)
    trained = {name: weight for name, weight in model.inner.named_parameters() if weight.requires_grad}
    return {_plain(name): weight for name, weight in trained.items()}


@torch.no_grad()
def copy_tensors(model: Adapted | Anchor, given: Mapping[str, Tensor]) -> None:
    """Put back what `tensors` gave. Raises ValueError where the names differ."""
    own = tensors(model)
    if names := sorted(own.keys() ^ given.keys()):
        raise ValueError(f"tensor {names[0]!r} of the adapter is {'missing' if names[0] in own else 'unexpected'}")
    for name, tensor in own.items():
        tensor.copy_(given[name])


def _of(model: Adapted, adapter: str) -> dict[str, Tensor]:
    marked = {name: weight for name, weight in model.inner.named_parameters() if f".{adapter}." in name}
    return {_plain(name): weight for name, weight in marked.items()}


def _plain(name: str) -> str:
    """A parameter's name as peft stores it."""
    for adapter in (LEARNS, STANDS):
        name = name.replace(f".modules_to_save.{adapter}.", ".").replace(f".{adapter}.", ".")
    return name


def reference_of(model: LanguageModel) -> LanguageModel:
    """A model as it is now, for a policy under training to be held close to; of an adapted one, the adapter alone."""
    if is_adapted(model):
        assert isinstance(model, ForeignModel)
        return Anchor(model)
    return copy.deepcopy(model).requires_grad_(False)


def follow(reference: LanguageModel, model: LanguageModel) -> None:
    """Let a reference become what the model is now."""
    if isinstance(reference, Anchor):
        reference.follow()
    else:
        reference.load_state_dict(model.state_dict())


class Anchor(LanguageModel):
    """A reference for an adapted policy: its frozen weights, with a copy of its adapter as it last was."""

    def __init__(self, policy: ForeignModel) -> None:
        from peft import inject_adapter_in_model

        super().__init__()
        self._policy = (policy,)  # in a tuple, so that the policy's weights are not counted as the reference's
        self.config = policy.config
        config = copy.deepcopy(policy.inner.peft_config[LEARNS])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a second adapter, which is meant
            inject_adapter_in_model(config, policy.inner, STANDS)
        self._switch(LEARNS)
        self.follow()

    @property
    def policy(self) -> ForeignModel:
        """The policy whose weights these are."""
        return self._policy[0]

    @property
    def context(self) -> int:
        """As `LanguageModel`."""
        return self.policy.context

    @property
    def head(self) -> Tensor:
        """As `LanguageModel`."""
        return self.policy.head

    def follow(self) -> None:
        """Become what the policy is now."""
        copy_tensors(self, _of(self.policy, LEARNS))

    @torch.no_grad()
    def hidden(self, tokens_BT: Tensor, mask_BT: Tensor | None = None, routing: list[Tensor] | None = None) -> Tensor:
        """As `LanguageModel`, without gradient."""
        with self._standing():
            return self.policy.hidden(tokens_BT, mask_BT, routing)

    def reward_model(self) -> ForeignReward:
        """As `LanguageModel`, which a reference is never asked for."""
        raise ValueError("a reference makes no reward model")

    @contextmanager
    def _standing(self) -> Iterator[None]:
        self._switch(STANDS)
        try:
            yield
        finally:
            self._switch(LEARNS)

    def _switch(self, adapter: str) -> None:
        from peft.tuners.lora import LoraLayer

        for layer in self.policy.inner.modules():
            if isinstance(layer, LoraLayer):
                layer.set_adapter(adapter, inference_mode=adapter == STANDS)


@torch.no_grad()
def merged(model: Adapted) -> Adapted:
    """The same model without an adapter, whose product its weights have taken in: float32, on the CPU."""
    from peft.tuners.lora import LoraLayer

    inner = model.inner
    deltas: dict[str, Any] = {name: layer for name, layer in inner.named_modules() if isinstance(layer, LoraLayer)}
    weights: dict[str, Tensor] = {}
    for name, tensor in inner.state_dict().items():
        if ".lora_" in name or ".original_module." in name:
            continue
        tensor = tensor.float()
        layer, _, part = name.partition(".base_layer.")
        if part == "weight" and layer in deltas:
            tensor = tensor + deltas[layer].get_delta_weight(LEARNS)
        weights[_plain(f"{layer}.{part}" if part else name)] = tensor.cpu()
    with torch.device("meta"):
        made = type(inner)(copy.deepcopy(inner.config))
    made.load_state_dict(weights, assign=True)
    made.tie_weights()
    for name, buffer in inner.named_buffers():  # those that are not stored
        layer, _, part = name.rpartition(".")
        made.get_submodule(layer)._buffers[part] = buffer.cpu()
    for name in ("generation_config", "_weight_conversions"):  # defaults of sampling, names of stored tensors
        if hasattr(inner, name):
            setattr(made, name, getattr(inner, name))
    return type(model)(made)


def write(folder: Path, model: Adapted) -> None:
    """Write the adapter as peft does: `PeftModel.from_pretrained(base, folder)` reads it."""
    folder.mkdir()
    told = model.inner.peft_config[LEARNS].to_dict() | {"inference_mode": True}
    text = json.dumps(told, indent=2, sort_keys=True, default=_jsonable)
    (folder / "adapter_config.json").write_text(text + "\n", "utf-8")
    stored = {f"base_model.model.{name}": tensor.detach().cpu() for name, tensor in tensors(model).items()}
    save_file(stored, folder / "adapter_model.safetensors", {"format": "pt"})


def _jsonable(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else sorted(value)
