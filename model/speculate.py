"""Self-speculative decoding: the multi-token layer guesses a token, which the model then reads along with the last.

The token drawn from the model's own distribution, at the sample's own quantile, is taken whatever the guess
was; where it is the guess, the distribution after it is known already, and a step has made two tokens. The
guess is drawn at the same quantile. So a sample is, token for token, what it is without drafts (V3 report,
section 5.4.3; rejection sampling as in 2302.01318 would accept somewhat more, and change the samples).

Shapes: B rows, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from model.attention import LatentCache
from model.board import CACHE_AHEAD, Board, Group, Settings
from model.decode import Decoder
from model.draw import can_be_captured, draw, uniform


@dataclass(slots=True)
class Drafts:
    """How many tokens were guessed, and how many of them accepted, so far."""

    made: int = 0
    accepted: int = 0


class DraftingBoard(Board):
    """Rows whose every step makes one token or two. Their state: last token and guess (B, 2), tokens drawn (B,)."""

    decoder: Decoder

    def __init__(self, decoder: Decoder, waiting: deque[Group], total: int, settings: Settings, drafts: Drafts) -> None:
        super().__init__(decoder, waiting, total, settings)
        self.drafts = drafts

    @staticmethod
    def ahead(steps: int) -> int:
        return 2 * steps + 2

    def _start(self, tokens_NT: Tensor, lengths_N: Tensor, source_B: Tensor) -> list[Tensor]:
        """Besides, draw each new row's first token, and a guess at the second."""
        latents, logits, hidden = self.decoder.prefill_for_drafts(tokens_NT, lengths_N)
        rows, fresh = self.rows.shape[1], len(source_B)
        numbers, seeds = self.rows[:2, rows - fresh :]
        chances = uniform(seeds[:, None], torch.arange(2, device=self.device))
        first, logprobs = draw(logits[source_B], chances[:, 0], self.settings.greedy, self.settings.top_p)
        self.ids[numbers, 0], self.logprobs[numbers, 0] = first, logprobs
        self.cache.extend(latents.index_select(1, source_B), lengths_N[source_B] - 1)
        self.cache.reserve(self.longest + 1, ahead=CACHE_AHEAD)
        # The other rows take part with nothing, in a place that their own next draft will overwrite.
        others = rows - fresh
        states = torch.cat([hidden.new_zeros(others, hidden.shape[1]), hidden[source_B]])[:, None]
        following = torch.cat([first.new_zeros(others), first])[:, None]
        only = torch.zeros(rows, dtype=torch.long, device=self.device)
        guess = self.decoder.draft(states, following, only, self.cache, self.longest + 1)[others:]
        self.cache.advance(torch.arange(rows, device=self.device) >= others)
        second = draw(guess, chances[:, 1], self.settings.greedy, self.settings.top_p)[0]
        return [torch.stack([first, second], 1), torch.ones_like(first)]

    def _decode(self) -> None:
        """`check_every` steps of every row, then one look at which rows have ended."""
        steps = self.settings.check_every
        numbers, seeds, made, _ = self.rows
        pair, drawn = self.state
        running = numbers < self.total
        begun = drawn
        chances = uniform(seeds[:, None], drawn[:, None] + torch.arange(2 * steps + 2, device=self.device))
        self.cache.reserve(self.longest + 2 * steps + 1, ahead=CACHE_AHEAD)
        for step in range(steps):
            pair, drawn = self._step(pair, drawn, numbers, chances, drawn - begun, self.longest + 2 * step + 2)
        self.state = [pair, drawn]
        accepted = ((drawn - begun - steps) * running).sum()
        places = made[:, None] + torch.arange(2 * steps + 1, device=self.device)
        fresh = self.ids[numbers[:, None], places]
        hits = torch.isin(fresh, self.settings.stop_ids) & (places < drawn[:, None])
        told = torch.stack([running.sum() * steps, accepted])
        self._close(hits, drawn - made)
        drawn.masked_fill_(numbers == self.total, 0)
        self.drafts.made, self.drafts.accepted = (
            before + more for before, more in zip((self.drafts.made, self.drafts.accepted), told.tolist(), strict=True)
        )

    def _step(
        self, pair: Tensor, drawn: Tensor, numbers: Tensor, chances: Tensor, done: Tensor, longest: int
    ) -> tuple[Tensor, Tensor]:
        """Read a token and the guess after it; draw what follows each, and guess again.

        `chances` (B, ahead) are those of the places from where all began, `done` (B,) of which are behind.
        """
        chances = chances.gather(1, done[:, None] + torch.arange(3, device=self.device))
        work = partial(self._guess, longest=longest)
        if self.settings.greedy or can_be_captured(2 * len(pair), self.settings.top_p):
            following, logprobs, right, guess = self.decoder.captured("drafts", work, self.cache, pair, chances)
        else:
            following, logprobs, right, guess = work(pair, chances, self.cache)
        # Where the guess was wrong, what is drawn after it is overwritten by the next step.
        places = drawn[:, None] + torch.arange(2, device=self.device)
        self.ids[numbers[:, None], places] = following
        self.logprobs[numbers[:, None], places] = logprobs
        made = 1 + right
        self.cache.advance(made)
        return torch.stack([following.gather(1, right[:, None])[:, 0], guess], 1), drawn + made

    def _guess(
        self, pair: Tensor, chances: Tensor, cache: LatentCache, longest: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is drawn after a token and the guess that follows it, whether the guess was right, and the next."""
        greedy, top_p = self.settings.greedy, self.settings.top_p
        logits, hidden = self.decoder.verify(pair, cache, longest)
        following, logprobs = draw(logits.flatten(0, 1), chances[:, :2].flatten(), greedy, top_p)
        following = following.view_as(pair)
        right = (following[:, 0] == pair[:, 1]).long()
        logits = self.decoder.draft(hidden, following, right, cache, longest)
        guess, _ = draw(logits, chances.gather(1, 1 + right[:, None])[:, 0], greedy, top_p)
        return following, logprobs.view(pair.shape), right, guess
