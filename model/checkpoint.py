"""A folder and a model: config.json, safetensors under DeepSeek-V3's official names, and the tokenizer.

What transformers' Auto classes need is all there. The multi-token layer shares its embedding and head with
the main model; official folders store copies of both, which are passed over here and not written.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.config import POLICY_ARCHITECTURE, REWARD_ARCHITECTURE, ModelConfig
from model.tokenizer import Tokenizer
from model.transformer import RewardModel, Transformer

Model = Transformer | RewardModel

_CONFIG, _GENERATION = "config.json", "generation_config.json"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


def save(
    folder: str | Path,
    model: Model,
    tokenizer: Tokenizer,
    *,
    generation: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = 5 * 10**9,
) -> None:
    """Write a folder; it appears whole, and replaces one of that name, which stands aside until then.

    `generation` holds sampling defaults (temperature, top_p, ...) for generation_config.json. `dtype` stores
    floating tensors in that type, except the gate's bias, which stays float32; None keeps the model's own.
    """
    folder = Path(folder)
    beside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    tensors = {name: _stored(name, tensor, dtype) for name, tensor in official_tensors(model).items()}
    _write_weights(beside, tensors, max_shard_bytes)
    architecture = POLICY_ARCHITECTURE if isinstance(model, Transformer) else REWARD_ARCHITECTURE
    stored = str(dtype or next(model.parameters()).dtype).removeprefix("torch.")
    _write_json(beside / _CONFIG, {**model.config.to_dict(architecture), "dtype": stored})
    tokens = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    _write_json(beside / _GENERATION, {**tokens, **(generation or {})})
    tokenizer.save(beside)
    aside = folder.with_name(folder.name + ".replaced")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        folder.rename(aside)
    beside.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


def load(
    folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Model, Tokenizer]:
    """The model of a folder, in evaluation mode, and its tokenizer.

    Raises ValueError, naming it, for a missing, unexpected or misshapen tensor, or a file that is not there.
    """
    folder = Path(folder)
    if not (folder / _CONFIG).is_file():
        raise ValueError(f"no {_CONFIG} in {folder}")
    values = json.loads((folder / _CONFIG).read_text("utf-8"))
    config = ModelConfig.from_dict(values)
    reward = REWARD_ARCHITECTURE in (values.get("architectures") or [])
    with torch.device("meta"):
        model = (RewardModel if reward else Transformer)(config)
    model = model.to(dtype).to_empty(device=device)
    load_official(model, _read_weights(folder))
    for layer in model.model.moe_layers():
        layer.load.zero_()
    return model.eval(), Tokenizer.load(folder)


def inspect(folder: str | Path) -> None:
    """Check that a policy's folder can be loaded, by its configuration, its tensors' shapes and its tokenizer.

    Raises ValueError as `load` does; no weight is read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError("not a folder")
    if not (folder / _CONFIG).is_file():
        raise ValueError(f"no {_CONFIG} in it")
    try:
        values = json.loads((folder / _CONFIG).read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{_CONFIG} is no JSON: {error}") from None
    if REWARD_ARCHITECTURE in (values.get("architectures") or []):
        raise ValueError("a reward model, which scores texts and writes none")
    with torch.device("meta"):
        model = Transformer(ModelConfig.from_dict(values))
    _check_names(official_tensors(model), _shapes(folder), model.config)
    Tokenizer.load(folder)


def official_tensors(model: Model) -> dict[str, Tensor]:
    """The model's tensors under their official names; stacked experts become views, one for each."""
    return {name: tensor for ours, whole in _state(model).items() for name, tensor in _official(model, ours, whole)}


@torch.no_grad()
def load_official(model: Model, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors of official names into a model. Raises ValueError at the first that does not fit."""
    own = official_tensors(model)
    _check_names(own, {name: tensor.shape for name, tensor in tensors.items()}, model.config)
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def _check_names(own: Mapping[str, Tensor], tensors: Mapping[str, torch.Size], config: ModelConfig) -> None:
    if missing := own.keys() - tensors.keys():
        raise ValueError(f"missing tensor {min(missing)!r} ({len(missing)} in all)")
    shared = _shared(config)
    if unexpected := tensors.keys() - own.keys() - shared:
        raise ValueError(f"unexpected tensor {min(unexpected)!r} ({len(unexpected)} in all)")
    for name, tensor in own.items():
        if tensor.shape != tensors[name]:
            raise ValueError(f"tensor {name!r} must be {tuple(tensor.shape)}, got {tuple(tensors[name])}")


def _state(model: Model) -> dict[str, Tensor]:
    """The state dict without the tied head, which is the embedding."""
    tied = model.config.tie_word_embeddings
    return {name: t for name, t in model.state_dict().items() if not (tied and name == "lm_head.weight")}


def _shared(config: ModelConfig) -> set[str]:
    """Copies that a folder may hold of tensors stored elsewhere."""
    layer = f"model.layers.{config.num_hidden_layers}"
    mtp = {f"{layer}.embed_tokens.weight", f"{layer}.shared_head.head.weight"}
    return (mtp if config.num_nextn_predict_layers else set()) | (
        {"lm_head.weight"} if config.tie_word_embeddings else set()
    )


def _official(model: Model, ours: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    name = ours.replace("model.mtp.", f"model.layers.{model.config.num_hidden_layers}.")
    stacked = re.fullmatch(r"(.*\.experts)\.(gate_up_proj|down_proj)", name)
    if stacked is None:
        yield name, tensor
        return
    for expert, weight in enumerate(tensor.unbind()):
        prefix = f"{stacked[1]}.{expert}"
        if stacked[2] == "down_proj":
            yield f"{prefix}.down_proj.weight", weight
        else:
            gate, up = weight.chunk(2)
            yield f"{prefix}.gate_proj.weight", gate
            yield f"{prefix}.up_proj.weight", up


def _stored(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    keep = dtype is None or name.endswith("e_score_correction_bias")
    return tensor.detach().to("cpu", tensor.dtype if keep else dtype).contiguous().clone()


def _write_weights(folder: Path, tensors: Mapping[str, Tensor], max_shard_bytes: int) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    sizes = [0]
    for name, tensor in tensors.items():
        if shards[-1] and sizes[-1] + tensor.nbytes > max_shard_bytes:
            shards.append({})
            sizes.append(0)
        shards[-1][name] = tensor
        sizes[-1] += tensor.nbytes
    if len(shards) == 1:
        save_file(shards[0], folder / _WEIGHTS, {"format": "pt"})
        return
    where = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file, {"format": "pt"})
        where.update(dict.fromkeys(shard, file))
    _write_json(folder / _INDEX, {"metadata": {"total_size": sum(sizes)}, "weight_map": where})


def _read_weights(folder: Path) -> dict[str, Tensor]:
    return {name: opened.get_tensor(name) for opened, name in _stored_tensors(folder)}


def _shapes(folder: Path) -> dict[str, torch.Size]:
    return {name: torch.Size(opened.get_slice(name).get_shape()) for opened, name in _stored_tensors(folder)}


def _stored_tensors(folder: Path) -> Iterator[tuple[Any, str]]:
    """Every tensor of a folder, by the opened file that holds it and its name."""
    files = [_WEIGHTS]
    if (folder / _INDEX).is_file():
        files = sorted(set(json.loads((folder / _INDEX).read_text("utf-8"))["weight_map"].values()))
    for file in files:
        if not (folder / file).is_file():
            raise ValueError(f"no {file} in {folder}")
        try:
            with safe_open(folder / file, "pt") as opened:
                yield from ((opened, name) for name in opened.keys())  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{folder / file} is not a whole safetensors file: {error}") from error


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", "utf-8")
