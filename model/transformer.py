"""DeepSeek-V3: decoder blocks of latent attention and (mixture of) feed-forward, with a multi-token head.

Module names are those of the official checkpoint, so that its tensor names are our state dict's; only the
experts are stacked, and the multi-token layer, `model.layers.{num_hidden_layers}` there, is `model.mtp` here.

Right-padded batches need no mask for attention, which is causal; masks keep padding out of loads and losses.

Shapes: B batch, T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from model.attention import MLA, Rope
from model.config import ModelConfig
from model.language import LanguageModel, TextScorer
from model.lean import beside_norm, norm_of, residual
from model.moe import MLP, Experts, Gate, MoE


class Block(nn.Module):
    """Pre-norm residual block: x += attention(norm x); x += feed-forward(norm x)."""

    def __init__(self, config: ModelConfig, routed: bool) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = MLA(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MoE(config) if routed else MLP(config.hidden_size, config.intermediate_size)

    def forward(
        self, x: Tensor, rotation: Tensor, mask: Tensor | None = None, routing: list[Tensor] | None = None
    ) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x, normed = beside_norm(x, self.input_layernorm)
        x = residual(x, self.self_attn(normed, rotation))
        return self.feed_forward(x, mask, routing)

    def feed_forward(self, x: Tensor, mask: Tensor | None = None, routing: list[Tensor] | None = None) -> Tensor:
        """Residual stream (B, T, D) before the feed-forward -> the same after it."""
        x, normed = beside_norm(x, self.post_attention_layernorm)
        return residual(x, self.mlp(normed, mask, routing) if isinstance(self.mlp, MoE) else self.mlp(normed))


def _through(block: Block, x: Tensor, rotation: Tensor, mask: Tensor | None, routing: list[Tensor] | None) -> Tensor:
    """A block's answer; its gate's scores go to the end of `routing`.

    They come in a list of their own: a compiled block is compiled again for each length that a list has.
    """
    own: list[Tensor] | None = None if routing is None else []
    out = block(x, rotation, mask, own)
    if routing is not None and own is not None:
        routing += own
    return out


class MTPLayer(Block):
    """Multi-token prediction of depth 1 (eq. 21-23): h' = M [norm(Emb(t_{i+1})); norm(h_i)], then a block.

    The halves of M stand in the order of the official weights. h_i is the main model's output after its
    final norm, as inference engines feed it; the report leaves that open.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, routed=config.n_moe_layers > 0)
        self.enorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.shared_head = nn.ModuleDict({"norm": nn.RMSNorm(config.hidden_size, config.rms_norm_eps)})

    def merge(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        """h' of hidden states h_i and embeddings of t_{i+1}, both (..., D)."""
        return self.eh_proj(torch.cat([self.enorm(embedded), self.hnorm(hidden)], -1)).type_as(hidden)

    def predict(
        self,
        hidden: Tensor,
        embedded: Tensor,
        rotation: Tensor,
        mask: Tensor | None = None,
        routing: list[Tensor] | None = None,
    ) -> Tensor:
        """Hidden states h_i and embeddings of t_{i+1}, both (B, T, D) -> states that predict t_{i+2}."""
        return self.shared_head["norm"](_through(self, self.merge(hidden, embedded), rotation, mask, routing))


class Backbone(nn.Module):
    """Embedding, blocks and final norm: what policies and reward models share."""

    def __init__(self, config: ModelConfig, mtp: bool) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        dense = config.first_k_dense_replace
        self.layers = nn.ModuleList(Block(config, routed=i >= dense) for i in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rope = Rope(config)
        self.mtp = MTPLayer(config) if mtp else None

    @property
    def blocks(self) -> list[Block]:
        """The layers of the main model, the multi-token one not among them."""
        return cast(list[Block], list(self.layers))

    def rotation(self, length: int) -> Tensor:
        """Rotations of positions 0 to length - 1. Raises ValueError beyond `max_position_embeddings`."""
        if length > self.config.max_position_embeddings:
            limit = self.config.max_position_embeddings
            raise ValueError(f"{length} tokens do not fit max_position_embeddings {limit}")
        return self.rope(torch.arange(length, device=self.norm.weight.device))

    def forward(self, tokens_BT: Tensor, mask_BT: Tensor | None = None, routing: list[Tensor] | None = None) -> Tensor:
        """Normed hidden states (B, T, D)."""
        x = self.embed_tokens(tokens_BT)
        rotation = self.rotation(tokens_BT.shape[1])
        for block in self.blocks:
            x = _through(block, x, rotation, mask_BT, routing)
        return norm_of(x, self.norm)

    def numbered_moe_layers(self) -> list[tuple[int, MoE]]:
        """Layers with routed experts by the number that official tensor names give them."""
        blocks = [*self.blocks, *([self.mtp] if self.mtp is not None else [])]
        return [(number, block.mlp) for number, block in enumerate(blocks) if isinstance(block.mlp, MoE)]

    def moe_layers(self) -> list[MoE]:
        return [module for module in self.modules() if isinstance(module, MoE)]

    @torch.no_grad()
    def initialise(self, std: float) -> None:
        """Normal weights, norms of one, no bias."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding, Gate, Experts)):
                for weight in module.parameters(recurse=False):
                    weight.normal_(0.0, std)


class Transformer(LanguageModel):
    """A policy: the backbone with a language-model head. Tokens (B, T) are right-padded rows.

    `routing`, where given, is a list that receives the gate scores (B, T, E) of each MoE layer, for
    `balance_loss`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Backbone(config, mtp=config.num_nextn_predict_layers > 0)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.model.initialise(config.initializer_range)
        nn.init.normal_(self.lm_head.weight, std=config.initializer_range)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    @property
    def context(self) -> int:
        return self.config.max_position_embeddings

    @property
    def head(self) -> Tensor:
        return self.lm_head.weight

    @property
    def has_multi_token(self) -> bool:
        return self.model.mtp is not None

    def reward_model(self) -> RewardModel:
        """As `LanguageModel`."""
        return RewardModel.from_policy(self)

    def hidden(self, tokens_BT: Tensor, mask_BT: Tensor | None = None, routing: list[Tensor] | None = None) -> Tensor:
        """Normed hidden states (B, T, D); the state at t predicts token t + 1."""
        return self.model(tokens_BT, mask_BT, routing)

    def hidden_with_mtp(
        self, tokens_BT: Tensor, mask_BT: Tensor | None = None, routing: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Hidden states (B, T, D), and the multi-token layer's (B, T - 1, D), whose state t predicts t + 2.

        The latter's gate scores, last in `routing`, are (B, T - 1, E), of tokens 1 to T - 1.
        Raises ValueError for a model without that layer.
        """
        mtp = self.model.mtp
        if mtp is None:
            raise ValueError("num_nextn_predict_layers is 0: this model has no multi-token prediction")
        hidden = self.hidden(tokens_BT, mask_BT, routing)
        following = self.model.embed_tokens(tokens_BT[:, 1:])
        rotation = self.model.rotation(tokens_BT.shape[1] - 1)
        mask = None if mask_BT is None else mask_BT[:, 1:]
        return hidden, mtp.predict(hidden[:, :-1], following, rotation, mask, routing)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return self.lm_head(hidden)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        return self.logits(self.hidden(tokens_BT))

    def compile_blocks(self) -> None:
        """Let each block be compiled at its first forward, for training on a GPU; shapes should stay the same."""
        for block in [*self.model.blocks, *([self.model.mtp] if self.model.mtp is not None else [])]:
            block.compile(dynamic=False)

    def gather_load(self) -> None:
        """As `LanguageModel`."""
        for layer in self.model.moe_layers():
            layer.gather_load()

    def update_bias(self, gamma: float) -> dict[int, float]:
        """Balance every MoE layer by the load since the last call (section 2.1.2).

        Returns each layer's MaxVio of that load, by the layer's number; the multi-token layer's is
        `num_hidden_layers`. A layer without load is left out.
        """
        violations = {}
        for number, layer in self.model.numbered_moe_layers():
            if layer.load.any():
                violations[number] = float(layer.max_violation())
            layer.update_bias(gamma)
        return violations

    def max_violation(self) -> float:
        """Mean MaxVio of the MoE layers over the load since the last `update_bias`; 0 for a dense model."""
        layers = self.model.moe_layers()
        return float(torch.stack([layer.max_violation() for layer in layers]).mean()) if layers else 0.0


class RewardModel(TextScorer):
    """A scalar for a whole text, read at its last valid token (DeepSeek-R1, section on reward models)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Backbone(config, mtp=False)
        self.score = nn.Linear(config.hidden_size, 1, bias=False)
        self.model.initialise(config.initializer_range)
        nn.init.normal_(self.score.weight, std=config.initializer_range)

    @classmethod
    def from_policy(cls, policy: Transformer) -> RewardModel:
        """A reward model on a copy of the policy's backbone, with a fresh score head."""
        model = cls(policy.config).to(policy.lm_head.weight)
        weights = policy.model.state_dict()
        model.model.load_state_dict({name: weights[name] for name in model.model.state_dict()})
        return model

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Scores (B,) of right-padded rows with `lengths_B` >= 1 valid tokens each."""
        valid = torch.arange(tokens_BT.shape[1], device=tokens_BT.device) < lengths_B[:, None]
        hidden = self.model(tokens_BT, valid)
        rows = torch.arange(len(tokens_BT), device=tokens_BT.device)
        return self.score(hidden[rows, lengths_B - 1]).squeeze(-1)
