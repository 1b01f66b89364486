"""Language models that judge (`data.judge`): a policy of one's own, or one behind an address."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from data.endpoint import Endpoint
from data.judge import JudgeError, JudgeModel, ModelJudge
from data.prompts import render
from model import checkpoint
from model.sampler import sample
from model.tokenizer import Tokenizer
from model.transformer import Transformer


@dataclass(frozen=True, slots=True)
class PolicyVoice:
    """Answers in the chat template; at temperature 0, so equal prompts get equal replies whatever the seed."""

    model: Transformer
    tokenizer: Tokenizer
    max_tokens: int = 256
    temperature: float = 0.0
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, prompt: str, seed: int) -> str:
        """Ask. Raises JudgeError where the prompt leaves no room in the context."""
        tokenizer, model = self.tokenizer, self.model
        ids = tokenizer.encode(render(prompt, "chat"))
        if len(ids) >= model.config.max_position_embeddings:
            raise JudgeError(f"{len(ids)} tokens, and the context has {model.config.max_position_embeddings}")
        with self._turn:
            [[drawn]] = sample(
                model,
                [ids],
                [[seed]],
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                top_p=1.0,
                stop_ids=[tokenizer.eos_id],
            )
        return tokenizer.decode([token for token in drawn.ids if token != tokenizer.eos_id])


def voice_in(folder: Path, device: str, max_tokens: int = 256) -> PolicyVoice:
    """The policy of a checkpoint folder. Raises ValueError for a reward model."""
    model, tokenizer = checkpoint.load(folder, device=device)
    if not isinstance(model, Transformer):
        raise ValueError(f"{folder} holds a reward model, which scores texts and writes none")
    return PolicyVoice(model.eval(), tokenizer, max_tokens)


def judge_of(config: JudgeModel, device: str) -> ModelJudge:
    """The judge that a recipe names."""
    if config.path is None:
        return ModelJudge(Endpoint(config.url, config.model, max_tokens=config.max_tokens))
    return ModelJudge(voice_in(config.path, device, config.max_tokens))
