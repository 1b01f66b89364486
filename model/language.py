"""What sampling and training ask of a language model, whichever architecture it has.

Shapes: B batch, T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn


class LanguageModel(nn.Module):
    """Hidden states and a head. What a model lacks (experts, a multi-token layer) it answers by nothing."""

    config: Any

    @property
    @abstractmethod
    def context(self) -> int:
        """The most tokens of a sequence, prompt and completion together."""

    @property
    @abstractmethod
    def head(self) -> Tensor:
        """Weights (V, D) whose product with a hidden state is the logits of the next token."""

    @property
    def has_multi_token(self) -> bool:
        """Whether there is a layer that predicts the token after the next."""
        return False

    @property
    def activation_bytes(self) -> int | None:
        """About what a token's activations take on a GPU until the backward pass; None where that is not known."""
        return None

    @abstractmethod
    def hidden(self, tokens_BT: Tensor, mask_BT: Tensor | None = None, routing: list[Tensor] | None = None) -> Tensor:
        """Normed hidden states (B, T, D) of right-padded rows; the state at t predicts token t + 1.

        Gate scores of experts, where there are some, go to the end of `routing`, layer by layer.
        Raises ValueError for rows longer than the context.
        """

    def hidden_with_mtp(
        self, tokens_BT: Tensor, mask_BT: Tensor | None = None, routing: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """`hidden`, and the multi-token layer's states. Raises ValueError for a model without that layer."""
        raise ValueError("this model has no multi-token prediction")

    @abstractmethod
    def reward_model(self) -> TextScorer:
        """A reward model on a copy of the weights, with a fresh head."""

    def gather_load(self) -> None:
        """Make the experts' load since the last `update_bias` that of all ranks, which is to be done once."""

    def checkpoint_activations(self) -> None:
        """From now on, compute activations again in the backward pass instead of keeping them.

        Raises ValueError for an architecture that cannot.
        """
        raise ValueError("gradient_checkpointing = true: this architecture keeps all its activations")

    def update_bias(self, gamma: float) -> dict[int, float]:
        """Balance the experts' load since the last call; returns MaxVio by layer, nothing without experts."""
        del gamma
        return {}

    def max_violation(self) -> float:
        """Mean MaxVio since the last `update_bias`; 0 without experts."""
        return 0.0


class TextScorer(nn.Module):
    """A reward model: a scalar for a whole text, read at its last valid token."""

    config: Any

    @abstractmethod
    def forward(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Scores (B,) of right-padded rows with `lengths_B` >= 1 valid tokens each."""
