"""A folder and a model: config.json, safetensors under DeepSeek-V3's official names, and the tokenizer.

What transformers' Auto classes need is all there. The multi-token layer lies in a file of its own, which the
index does not list: transformers knows that layer by the number 61 alone, and would warn of any other. It
shares its embedding and head with the main model; official folders store copies of both, which are passed
over here and not written. Official weights in blocks of float8 are read, and only safetensors ever are.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from model import adapter, foreign, fp8, ranks
from model.config import MODEL_TYPE, POLICY_ARCHITECTURE, REWARD_ARCHITECTURE, ModelConfig
from model.foreign import ForeignModel, ForeignReward
from model.language import LanguageModel, TextScorer
from model.tokenizer import Tokenizer
from model.transformer import RewardModel, Transformer

Model = LanguageModel | TextScorer
Own = Transformer | RewardModel
Foreign = ForeignModel | ForeignReward

_CONFIG, _GENERATION = "config.json", "generation_config.json"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_MULTI_TOKEN = "mtp.safetensors"
KNOWN_LAYERS = 61  # of the main model, for which transformers passes over the multi-token layer


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
    A model with an adapter is stored merged, and the adapter in a folder within.
    Of several ranks, which hold the same, the first writes.
    """
    if ranks.rank() > 0:
        return
    folder = Path(folder)
    beside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    if isinstance(model, Foreign) and adapter.is_adapted(model):
        adapter.write(beside / adapter.FOLDER, model)
        model = adapter.merged(model)
    if isinstance(model, Foreign):
        foreign.write(beside, model, dtype, max_shard_bytes)
    else:
        assert isinstance(model, Own)
        _write_own(beside, model, dtype, max_shard_bytes)
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


def _write_own(folder: Path, model: Own, dtype: torch.dtype | None, max_shard_bytes: int) -> None:
    tensors = {name: _stored(name, tensor, dtype) for name, tensor in _official_tensors(model).items()}
    prefix = _multi_token_prefix(model.config)
    _write_weights(folder, {name: t for name, t in tensors.items() if not name.startswith(prefix)}, max_shard_bytes)
    if multi_token := {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}:
        save_file(multi_token, folder / _MULTI_TOKEN, {"format": "pt"})
    architecture = POLICY_ARCHITECTURE if isinstance(model, Transformer) else REWARD_ARCHITECTURE
    stored = str(dtype or next(model.parameters()).dtype).removeprefix("torch.")
    _write_json(folder / _CONFIG, {**model.config.to_dict(architecture), "dtype": stored})


def load(
    folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Model, Tokenizer]:
    """The model of a folder, in evaluation mode, and its tokenizer.

    A folder without any tensor of the multi-token layer, as transformers saves it, makes a model without one.
    Raises ValueError, naming it, for a missing, unexpected or misshapen tensor, or a file that is not there.
    """
    folder = Path(folder)
    values = _read_config(folder)
    tokenizer = Tokenizer.load(folder)
    if is_foreign(values):
        foreign.check_config(values)
        _check_tokenizer(tokenizer, values["vocab_size"])
        _files(folder)
        return foreign.load(folder, values, device, dtype), tokenizer
    config = _present_config(ModelConfig.from_dict(values), _shapes(folder))
    _check_tokenizer(tokenizer, config.vocab_size)
    reward = REWARD_ARCHITECTURE in (values.get("architectures") or [])
    with torch.device("meta"):
        model = (RewardModel if reward else Transformer)(config)
    model = model.to(dtype).to_empty(device=device)
    _load_official(model, _read_weights(folder, fp8.block_size(values)))
    for layer in model.model.moe_layers():
        layer.load.zero_()
    return model.eval(), tokenizer


def inspect(folder: str | Path) -> int:
    """Check that a policy's folder can be loaded, by its configuration, its tensors' shapes and its tokenizer.

    Returns the longest context. Raises ValueError as `load` does; no weight is read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError("not a folder")
    values = _read_config(folder)
    if foreign.is_reward(values):
        raise ValueError("a reward model, which scores texts and writes none")
    if is_foreign(values):
        foreign.check_config(values)
        shapes = _shapes(folder)
        _check_tokenizer(Tokenizer.load(folder), values["vocab_size"])
        foreign.check_shapes(folder, shapes)
        return foreign.context_of(values)
    told = ModelConfig.from_dict(values)
    shapes = _shapes(folder)
    fp8.check_shapes(shapes, fp8.block_size(values))
    config = _present_config(told, shapes)
    with torch.device("meta"):
        model = Transformer(config)
    weights = {name: shape for name, shape in shapes.items() if not name.endswith(fp8.SCALE)}
    _check_names(_official_tensors(model), weights, config)
    _check_tokenizer(Tokenizer.load(folder), config.vocab_size)
    return config.max_position_embeddings


def try_out(folder: str | Path) -> None:
    """Ask a policy of another architecture the same in several ways. Raises ValueError where answers differ."""
    if is_foreign(_read_config(Path(folder))):
        model, _ = load(folder)
        assert isinstance(model, ForeignModel)
        foreign.try_out(model)


def check_adapter(folder: str | Path, target_modules: Sequence[str]) -> None:
    """Raise ValueError, as `adapter.adapt` does, for a policy that cannot have this adapter; no weight is read."""
    values = _read_config(Path(folder))
    with torch.device("meta"):
        model = foreign.built_as(Path(folder)) if is_foreign(values) else Transformer(ModelConfig.from_dict(values))
    adapter.check(model, target_modules)


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / _CONFIG).is_file():
        raise ValueError(f"no {_CONFIG} in {folder}")
    try:
        return json.loads((folder / _CONFIG).read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{_CONFIG} is no JSON: {error}") from None


def _present_config(config: ModelConfig, names: Iterable[str]) -> ModelConfig:
    """The configuration, of no multi-token layer where none of it is stored."""
    prefix = _multi_token_prefix(config)
    stored = any(name.startswith(prefix) for name in names)
    return config if stored else replace(config, num_nextn_predict_layers=0)


def is_foreign(values: Mapping[str, Any]) -> bool:
    """Whether a config.json is of another architecture than our own, for transformers to build."""
    return values.get("model_type") not in (MODEL_TYPE, None)


def _check_tokenizer(tokenizer: Tokenizer, vocab_size: int) -> None:
    if tokenizer.largest_id >= vocab_size:
        raise ValueError(f"the tokenizer has ids up to {tokenizer.largest_id}, more than vocab_size {vocab_size} holds")


def official_tensors(model: Model) -> dict[str, Tensor]:
    """The model's tensors under the names that they are stored by; where it has an adapter, those of the adapter."""
    if isinstance(model, adapter.Anchor) or (isinstance(model, Foreign) and adapter.is_adapted(model)):
        return adapter.tensors(model)
    if isinstance(model, Foreign):
        return foreign.tensors(model)
    assert isinstance(model, Own)
    return _official_tensors(model)


def load_official(model: Model, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors of such names into a model. Raises ValueError at the first that does not fit."""
    if isinstance(model, adapter.Anchor) or (isinstance(model, Foreign) and adapter.is_adapted(model)):
        adapter.copy_tensors(model, tensors)
    elif isinstance(model, Foreign):
        foreign.copy_tensors(model, tensors)
    else:
        assert isinstance(model, Own)
        _load_official(model, tensors)


def _official_tensors(model: Own) -> dict[str, Tensor]:
    """Stacked experts become views, one for each."""
    return {name: tensor for ours, whole in _state(model).items() for name, tensor in _official(model, ours, whole)}


@torch.no_grad()
def _load_official(model: Own, tensors: Mapping[str, Tensor]) -> None:
    own = _official_tensors(model)
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


def _state(model: Own) -> dict[str, Tensor]:
    """The state dict without the tied head, which is the embedding."""
    tied = model.config.tie_word_embeddings
    return {name: t for name, t in model.state_dict().items() if not (tied and name == "lm_head.weight")}


def _shared(config: ModelConfig) -> set[str]:
    """Copies that a folder may hold of tensors stored elsewhere."""
    layer = _multi_token_prefix(config)
    mtp = {f"{layer}embed_tokens.weight", f"{layer}shared_head.head.weight"}
    return (mtp if config.num_nextn_predict_layers else set()) | (
        {"lm_head.weight"} if config.tie_word_embeddings else set()
    )


def _multi_token_prefix(config: ModelConfig) -> str:
    return f"model.layers.{config.num_hidden_layers}."


def _official(model: Own, ours: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    name = ours.replace("model.mtp.", _multi_token_prefix(model.config))
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


def _read_weights(folder: Path, block: tuple[int, int]) -> dict[str, Tensor]:
    """All tensors of a folder, those in blocks of float8 multiplied out."""
    found = {name: opened.get_tensor(name) for opened, name in _stored_tensors(folder)}
    fp8.check_shapes({name: tensor.shape for name, tensor in found.items()}, block)
    weights = {}
    for name, tensor in found.items():
        if name.endswith(fp8.SCALE):
            continue
        if not fp8.is_quantised(tensor.dtype):
            weights[name] = tensor
        elif (scale := name + fp8.SCALE) in found:
            weights[name] = fp8.dequantise(tensor, found[scale], block)
        else:
            raise ValueError(f"missing tensor {scale!r}: {name!r} is quantised")
    return weights


def _shapes(folder: Path) -> dict[str, torch.Size]:
    return {name: torch.Size(opened.get_slice(name).get_shape()) for opened, name in _stored_tensors(folder)}


def _stored_tensors(folder: Path) -> Iterator[tuple[Any, str]]:
    """Every tensor of a folder, by the opened file that holds it and its name."""
    for file in _files(folder):
        try:
            with safe_open(file, "pt") as opened:
                yield from ((opened, name) for name in opened.keys())  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{file} is not a whole safetensors file: {error}") from error


def _files(folder: Path) -> list[Path]:
    """The safetensors of a folder. Raises ValueError where one is missing."""
    names = [_WEIGHTS]
    if (folder / _INDEX).is_file():
        names = sorted(set(json.loads((folder / _INDEX).read_text("utf-8"))["weight_map"].values()))
    if (folder / _MULTI_TOKEN).is_file():
        names.append(_MULTI_TOKEN)
    for name in names:
        if not (folder / name).is_file():
            raise ValueError(f"no {name} in {folder}")
    return [folder / name for name in dict.fromkeys(names)]


def set_apart(folder: str | Path) -> None:
    """Move the multi-token layer of a folder into a file of its own, where transformers would warn of its tensors.

    A folder of the official number of layers, of which it does not, or of another architecture stays as it is.
    """
    folder = Path(folder)
    values = _read_config(folder)
    if is_foreign(values):
        return
    config = ModelConfig.from_dict(values)
    prefix = _multi_token_prefix(config)
    apart: dict[str, Tensor] = {}
    for file in [] if config.num_hidden_layers == KNOWN_LAYERS else _files(folder):
        with safe_open(file, "pt") as opened:
            if file.name == _MULTI_TOKEN or not any(name.startswith(prefix) for name in opened.keys()):  # noqa: SIM118
                continue
        tensors = load_file(file)
        apart |= {name: tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
        beside = file.with_name(file.name + ".partial")
        save_file(tensors, beside, {"format": "pt"})
        beside.replace(file)
    if not apart:
        return
    save_file(apart, folder / _MULTI_TOKEN, {"format": "pt"})
    if (folder / _INDEX).is_file():
        index = json.loads((folder / _INDEX).read_text("utf-8"))
        index["weight_map"] = {name: where for name, where in index["weight_map"].items() if name not in apart}
        index["metadata"]["total_size"] -= sum(tensor.nbytes for tensor in apart.values())
        _write_json(folder / _INDEX, index)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", "utf-8")
