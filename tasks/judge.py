"""A policy of one's own as the language model that judges (`data.judge`)."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from data.judge import JudgeError
from data.prompts import render
from model.sampler import sample
from tasks.rollout import Speaker


@dataclass(frozen=True, slots=True)
class PolicyVoice:
    """Answers in the chat template; at temperature 0, so equal prompts get equal replies whatever the seed."""

    speaker: Speaker
    max_tokens: int = 256
    temperature: float = 0.0
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, prompt: str, seed: int) -> str:
        """Ask. Raises JudgeError where the prompt leaves no room in the context."""
        tokenizer, model = self.speaker.tokenizer, self.speaker.model
        ids = tokenizer.encode(render(prompt, "chat"))
        if len(ids) >= model.context:
            raise JudgeError(f"{len(ids)} tokens, and the context has {model.context}")
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
