"""The shape of a DeepSeek-V3 model, in the field names of its Hugging Face `config.json`.

A dense model is the same configuration with `first_k_dense_replace = num_hidden_layers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

MODEL_TYPE = "deepseek_v3"
POLICY_ARCHITECTURE = "DeepseekV3ForCausalLM"
REWARD_ARCHITECTURE = "DeepseekV3ForSequenceClassification"

# What this implementation fixes, and the keys by which a config.json says so.
_FIXED = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "moe_layer_freq": 1,
    "rope_interleave": True,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
}
_YARN = {
    "factor": None,
    "original_max_position_embeddings": None,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 0.0,
}


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of a DeepSeek-V3 model (V3 report, section 4.2). Defaults are the 671B model's.

    `q_lora_rank` None or 0 projects queries without a latent. `rope_scaling` is None or YaRN's keys
    (`factor`, `original_max_position_embeddings`, `beta_fast`, `beta_slow`, `mscale`, `mscale_all_dim`).
    `num_nextn_predict_layers` is the depth of multi-token prediction: 0 or 1.
    Raises ValueError, naming the field and its value, for a shape that cannot be built.
    """

    vocab_size: int = 129280
    hidden_size: int = 7168
    intermediate_size: int = 18432
    moe_intermediate_size: int = 2048
    num_hidden_layers: int = 61
    num_nextn_predict_layers: int = 1
    num_attention_heads: int = 128
    n_shared_experts: int = 1
    n_routed_experts: int = 256
    num_experts_per_tok: int = 8
    n_group: int = 8
    topk_group: int = 4
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 2.5
    first_k_dense_replace: int = 3
    q_lora_rank: int | None = 1536
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    max_position_embeddings: int = 163840
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, float] | None = None
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.006
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 0
    eos_token_id: int | None = 1
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        self._check_sizes()
        self._check_tokens()
        if self.n_moe_layers:
            self._check_experts()
        if self.rope_scaling is not None:
            object.__setattr__(self, "rope_scaling", _yarn(self.rope_scaling))

    @property
    def n_moe_layers(self) -> int:
        """Layers with routed experts, the multi-token prediction layer not counted."""
        return max(0, self.num_hidden_layers - self.first_k_dense_replace)

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def latent_dim(self) -> int:
        """Values that the cache keeps for one token in one layer: latent and rotary key."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    def to_dict(self, architecture: str = POLICY_ARCHITECTURE) -> dict[str, Any]:
        """The keys of a Hugging Face `config.json` that transformers' Auto classes load."""
        values = asdict(self)
        values["q_lora_rank"] = self.q_lora_rank or None
        values["rope_scaling"] = {"type": "yarn", **self.rope_scaling} if self.rope_scaling else None
        reward = {"num_labels": 1} if architecture == REWARD_ARCHITECTURE else {}
        return {
            "architectures": [architecture],
            "model_type": MODEL_TYPE,
            **values,
            **_FIXED,
            "num_key_value_heads": self.num_attention_heads,
            **reward,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Read a `config.json`; keys that say nothing about the shape are passed over.

        Raises ValueError for another model type, or for a variant that is not implemented.
        """
        if values.get("model_type") != MODEL_TYPE:
            raise ValueError(f"model_type must be {MODEL_TYPE!r}, got {values.get('model_type')!r}")
        for key, fixed in _FIXED.items():
            if values.get(key, fixed) != fixed:
                raise ValueError(f"{key} must be {fixed!r}, got {values[key]!r}")
        names = {field.name for field in fields(cls)}
        known = {key: value for key, value in values.items() if key in names}
        return cls(**{**known, **_rope(values), "q_lora_rank": values.get("q_lora_rank") or None})

    def _check_sizes(self) -> None:
        positive = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads kv_lora_rank"
        positive += " qk_nope_head_dim qk_rope_head_dim v_head_dim max_position_embeddings"
        for name in positive.split():
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("first_k_dense_replace", "n_shared_experts"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name in ("rope_theta", "rms_norm_eps", "initializer_range"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        _require((self.q_lora_rank or 0) >= 0, "q_lora_rank", self.q_lora_rank, "None or at least 0")
        _require(self.qk_rope_head_dim % 2 == 0, "qk_rope_head_dim", self.qk_rope_head_dim, "even")
        depth = self.num_nextn_predict_layers
        _require(depth in (0, 1), "num_nextn_predict_layers", depth, "0 or 1")

    def _check_tokens(self) -> None:
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            token = getattr(self, name)
            valid = token is None or (isinstance(token, int) and 0 <= token < self.vocab_size)
            _require(valid, name, token, f"None or an id below vocab_size {self.vocab_size}")

    def _check_experts(self) -> None:
        experts, groups, kept = self.n_routed_experts, self.n_group, self.topk_group
        top_k = self.num_experts_per_tok
        for name in ("n_routed_experts", "moe_intermediate_size", "num_experts_per_tok", "n_group"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(experts % groups == 0, "n_group", groups, f"a divisor of n_routed_experts {experts}")
        _require(1 <= kept <= groups, "topk_group", kept, f"between 1 and n_group {groups}")
        reach = kept * (experts // groups)
        where = f"at most {reach}, the experts of topk_group {kept} groups"
        _require(top_k <= reach, "num_experts_per_tok", top_k, where)
        scored = groups == 1 or experts // groups >= 2
        _require(scored, "n_group", groups, f"at most {experts // 2}: groups are scored by two experts")


def _require(valid: bool, name: str, value: object, expected: str) -> None:
    if not valid:
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def _rope(values: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` from either spelling: DeepSeek's own or transformers 5's."""
    merged = dict(values.get("rope_parameters") or {})
    merged.update(values.get("rope_scaling") or {})
    theta = values.get("rope_theta", merged.pop("rope_theta", ModelConfig.rope_theta))
    kind = merged.get("rope_type", merged.get("type", "default"))
    return {"rope_theta": float(theta), "rope_scaling": None if kind == "default" else merged}


def _yarn(scaling: Mapping[str, Any]) -> dict[str, float]:
    """YaRN's keys with their defaults filled in, and nothing else."""
    kind = scaling.get("rope_type", scaling.get("type", "yarn"))
    _require(kind == "yarn", "rope_scaling type", kind, "'yarn'")
    full = {key: scaling.get(key, default) for key, default in _YARN.items()}
    for key, value in full.items():
        valid = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
        _require(valid, f"rope_scaling {key}", value, "a number")
    _require(full["factor"] >= 1, "rope_scaling factor", full["factor"], "at least 1")
    original = full.pop("original_max_position_embeddings")
    return {
        **{key: float(value) for key, value in full.items()},
        "original_max_position_embeddings": int(original),
    }
