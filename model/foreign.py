"""Any causal language model that `transformers` knows, as a policy: reading, writing, and what training asks.

Weights stay under the names that transformers gives them, and float32, the masters of training; on a GPU the
products are taken in bfloat16. Nothing remote and no pickle is ever read.

Shapes: B batch, T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.language import LanguageModel, TextScorer

CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
TRIAL = 12  # tokens by which a model is tried out
TOLERANCE = 1e-3


class ForeignModel(LanguageModel):
    """A causal language model of transformers, `inner`. Dropout is never applied."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.config = inner.eval(), inner.config
        self.recomputes = False

    @property
    def context(self) -> int:
        return context_of(self.config.to_dict())

    @property
    def head(self) -> Tensor:
        return self.inner.get_output_embeddings().weight

    @property
    def activation_bytes(self) -> int | None:
        """As `LanguageModel`, for dense layers: residual stream in float32, products in bfloat16, no scores kept."""
        values = self.config.to_dict()
        hidden, wide = values.get("hidden_size"), values.get("intermediate_size")
        layers = values.get("num_hidden_layers")
        if not (hidden and wide and layers) or any(values.get(name) for name in EXPERTS):
            return None
        layer = 50 * hidden + 12 * wide
        return int(4 * layers * hidden + layer if self.recomputes else layers * layer)

    def train(self, mode: bool = True) -> ForeignModel:
        """Mark what is trained; the model computes as in evaluation either way."""
        self.training = mode
        if self.recomputes:
            self.inner.train(mode)
        return self

    def checkpoint_activations(self) -> None:
        """As `LanguageModel`: layer by layer, while the model is in training mode."""
        for module in self.inner.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0
        before = self.inner.gradient_checkpointing_enable  # its name before transformers 5.23
        getattr(self.inner, "activation_checkpointing_enable", before)({"use_reentrant": False})
        self.recomputes = True
        self.train(self.training)

    def hidden(self, tokens_BT: Tensor, mask_BT: Tensor | None = None, routing: list[Tensor] | None = None) -> Tensor:
        """As `LanguageModel`; nothing is told of routing."""
        return _hidden(self.inner.base_model, tokens_BT, self.context)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        return self.hidden(tokens_BT) @ self.head.t()

    def reward_model(self) -> ForeignReward:
        """As `LanguageModel`: transformers' own architecture for the classification of sequences."""
        from transformers import AutoModelForSequenceClassification

        config = copy.deepcopy(self.config)
        config.num_labels = 1
        made = AutoModelForSequenceClassification.from_config(config, dtype=self.head.dtype)
        made.base_model.load_state_dict(self.inner.base_model.state_dict())
        return ForeignReward(made.to(self.head.device))


class ForeignReward(TextScorer):
    """A sequence classifier of transformers with one label, read at each row's last valid token."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.config = inner.eval(), inner.config

    def train(self, mode: bool = True) -> ForeignReward:
        """Mark what is trained; the model computes as in evaluation either way."""
        self.training = mode
        return self

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """As `TextScorer`."""
        hidden = _hidden(self.inner.base_model, tokens_BT, context_of(self.config.to_dict()))
        rows = torch.arange(len(tokens_BT), device=tokens_BT.device)
        return self.inner.score(hidden[rows, lengths_B - 1].to(self.inner.score.weight.dtype)).squeeze(-1)


def _hidden(backbone: nn.Module, tokens_BT: Tensor, context: int) -> Tensor:
    """Causal attention needs no mask for rows that are padded on the right."""
    if tokens_BT.shape[1] > context:
        raise ValueError(f"{tokens_BT.shape[1]} tokens do not fit a context of {context}")
    half = tokens_BT.is_cuda
    with torch.autocast("cuda", torch.bfloat16, enabled=half):
        hidden = backbone(input_ids=tokens_BT, use_cache=False).last_hidden_state
    return hidden.to(torch.bfloat16) if half else hidden


def context_of(values: Mapping[str, Any]) -> int:
    """The longest sequence by a `config.json`. Raises ValueError where it does not say."""
    for key in CONTEXT_KEYS:
        if isinstance(values.get(key), int):
            return int(values[key])
    raise ValueError(f"config.json names no longest context; known are {', '.join(CONTEXT_KEYS)}")


def check_config(values: Mapping[str, Any]) -> None:
    """Raise ValueError for a config.json of no causal language model that transformers itself can build."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = values.get("model_type")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(f"model_type {kind!r} is no causal language model that transformers knows")
    if values.get("quantization_config"):
        raise ValueError("its weights are quantised: training needs a float checkpoint")
    context_of(values)


def built(values: Mapping[str, Any]) -> ForeignModel:
    """A model of random float32 weights by a config.json.

    Raises ValueError for a field that its kind does not have, or values of which no model can be made.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    check_config(values)
    fields = {name: value for name, value in values.items() if name != "model_type"}
    known = AutoConfig.for_model(values["model_type"]).to_dict()
    if unknown := sorted(fields.keys() - known.keys()):
        raise ValueError(f"model_type {values['model_type']!r} has no field {unknown[0]!r}")
    with quiet(), _telling(values["model_type"]):
        config = AutoConfig.for_model(values["model_type"], **fields)
        return ForeignModel(AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval())


def built_as(folder: Path) -> ForeignModel:
    """A model of random weights by the config.json of a folder. Raises ValueError where none can be made of it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with quiet(), _telling(folder.name):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        return ForeignModel(AutoModelForCausalLM.from_config(config, dtype=torch.float32))


def check_shapes(folder: Path, stored: Mapping[str, torch.Size]) -> None:
    """Raise ValueError where the tensors of a folder are not of the model that its config.json tells.

    Some kinds are stored under other names than they are loaded by, so that one that is missing is no fault yet.
    """
    with torch.device("meta"):
        wanted = built_as(folder).inner.state_dict()
    common = [name for name in wanted if name in stored]
    if not common:
        raise ValueError(f"its tensors ({min(stored, default='none')}, ...) are not those of its config.json")
    for name in common:
        if wanted[name].shape != stored[name]:
            raise ValueError(f"tensor {name!r} must be {tuple(wanted[name].shape)}, got {tuple(stored[name])}")


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """What transformers and torch have against a configuration, as one line; they raise it in many kinds."""
    try:
        yield
    except Exception as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"no model can be made of this configuration ({what}): {told[-1].strip()}") from error


def is_reward(values: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a sequence classifier."""
    return any(str(name).endswith("ForSequenceClassification") for name in values.get("architectures") or [])


def load(folder: Path, values: Mapping[str, Any], device: str | torch.device, dtype: torch.dtype) -> Any:
    """The ForeignModel or ForeignReward of a folder whose config.json holds `values`, in evaluation mode.

    Raises ValueError, naming it, for a missing, unexpected or misshapen tensor.
    """
    import transformers

    check_config(values)
    reward = is_reward(values)
    kind = transformers.AutoModelForSequenceClassification if reward else transformers.AutoModelForCausalLM
    with quiet():
        inner, told = kind.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True,
            ignore_mismatched_sizes=True,
        )  # fmt: skip
    if misshapen := sorted(told["mismatched_keys"]):
        name, stored, wanted = misshapen[0]
        raise ValueError(f"tensor {name!r} must be {tuple(wanted)}, got {tuple(stored)}")
    for what in ("missing", "unexpected"):
        if names := sorted(told[f"{what}_keys"]):
            raise ValueError(f"{what} tensor {names[0]!r} ({len(names)} in all)")
    inner.to(device)
    return (ForeignReward if reward else ForeignModel)(inner).eval()


def write(folder: Path, model: ForeignModel | ForeignReward, dtype: torch.dtype | None, max_shard_bytes: int) -> None:
    """Write config.json, generation_config.json and safetensors as transformers does."""
    inner = model.inner
    with quiet():
        if dtype is None or dtype == inner.dtype:
            inner.save_pretrained(folder, max_shard_size=max_shard_bytes)
        else:
            copy.deepcopy(inner).to(dtype).save_pretrained(folder, max_shard_size=max_shard_bytes)


def tensors(model: ForeignModel | ForeignReward) -> dict[str, Tensor]:
    """The model's tensors by name, each stored once though several names may share it."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.inner.state_dict().items():
        found.setdefault(tensor.data_ptr(), (name, tensor))
    return dict(found.values())


@torch.no_grad()
def copy_tensors(model: ForeignModel | ForeignReward, given: Mapping[str, Tensor]) -> None:
    """Put back what `tensors` gave. Raises ValueError at the first that does not fit."""
    own = tensors(model)
    if names := sorted(own.keys() ^ given.keys()):
        raise ValueError(f"tensor {names[0]!r} is {'missing' if names[0] in own else 'unexpected'}")
    for name, tensor in own.items():
        if tensor.shape != given[name].shape:
            raise ValueError(f"tensor {name!r} must be {tuple(tensor.shape)}, got {tuple(given[name].shape)}")
        tensor.copy_(given[name])


@torch.inference_mode()
def try_out(model: ForeignModel) -> None:
    """Ask a model the same in three ways: its own logits, ours from hidden states, ours token by token.

    Raises ValueError where they differ: for such an architecture neither sampling nor training would be right.
    """
    from model.foreign_decode import ForeignDecoder

    kind = model.config.model_type
    tokens = torch.arange(TRIAL, device=model.head.device)[None] % len(model.head)
    told = model.inner(input_ids=tokens, use_cache=False).logits[0].float()
    if not _close(told, model(tokens)[0]):
        raise ValueError(f"model_type {kind!r}: its logits are no product of hidden states and one matrix")
    decoder, start = ForeignDecoder(model), TRIAL // 2
    try:
        latents, logits = decoder.prefill(tokens[:, :start], torch.tensor([start], device=tokens.device))
        cache = decoder.new_cache(1, TRIAL)
        cache.extend(latents, torch.tensor([start], device=tokens.device))
        steps = [logits]
        for place in range(start, TRIAL):
            cache.reserve(place + 1)
            steps.append(decoder.step(tokens[:, place], cache, place + 1))
    except (AttributeError, TypeError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"model_type {kind!r} keeps more than keys and values of tokens: {error}") from error
    if not _close(told[start - 1 :], torch.cat(steps)):
        raise ValueError(f"model_type {kind!r} answers otherwise token by token than at once")


def _close(told: Tensor, ours: Tensor) -> bool:
    scale = float(told.abs().max().clamp(min=1))
    return float((told - ours.float()).abs().max()) <= TOLERANCE * scale


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from talking: what matters is raised."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
