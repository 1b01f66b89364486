"""The rows that decode together: samples enter as rows of a batch, and leave it once they have ended.

Shapes: B rows, T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from model.attention import LatentCache
from model.draw import draw, uniform

CHECK_EVERY = {"cpu": 4, "cuda": 16}  # steps between two looks at which rows have ended
LEAVE_AT = 0.75  # ended rows leave once no more than this part of the rows still runs
CACHE_AHEAD = 64  # tokens by which the cache grows at a time
PREFILL_TOKENS = {"cpu": 4096, "cuda": 65536}  # prompt tokens, padding included, of one prefill


@dataclass(frozen=True, slots=True)
class Sample:
    """Sampled ids with their log-probabilities. Where `finish` is "stop", the last of `ids` is a stop id."""

    ids: list[int]
    logprobs: list[float]
    finish: Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Settings:
    greedy: bool
    top_p: float
    stop_ids: Tensor
    check_every: int
    max_batch: int


@dataclass(frozen=True, slots=True)
class Group:
    """Samples that share one prompt: their numbers in the order of the call, seeds, and limit of tokens."""

    prompt: Sequence[int]
    numbers: Sequence[int]
    seeds: Sequence[int]
    limit: int


class RowDecoder(Protocol):
    """What the board asks: prompts into a cache, then a token for every row at a time."""

    device: torch.device

    def rows_that_fit(self, tokens: int) -> int | None:
        """How many rows of so many tokens the device's memory has room for; None where that is not asked."""

    def new_cache(self, rows: int, tokens: int) -> LatentCache:
        """A cache without rows, for up to so many rows of so many tokens."""
        ...

    def prefill(self, tokens_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Right-padded prompts -> entries of the cache (L, B, T, K), and logits (B, V) at each row's last token."""
        ...

    def step(self, tokens_B: Tensor, cache: Any, longest: int) -> Tensor:
        """Append one token to every row -> logits (B, V). No row is then longer than `longest`."""
        ...

    def close(self) -> None:
        """The samples are made."""


class Board:
    """The rows that decode together. Ended rows leave in one go when enough have, and waiting groups enter.

    A row that has ended but not left is empty: it decodes into a line of the results that nobody reads.
    """

    def __init__(self, decoder: RowDecoder, waiting: deque[Group], total: int, settings: Settings) -> None:
        self.decoder, self.waiting, self.settings, self.total = decoder, waiting, settings, total
        self.device = device = decoder.device
        width = max((group.limit for group in waiting), default=0) + self.ahead(settings.check_every)
        longest = max((len(group.prompt) for group in waiting), default=0) + width
        self.ids = torch.zeros(total + 1, width, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(total + 1, width, device=device)
        self.lengths = torch.zeros(total + 1, dtype=torch.long, device=device)
        self.stopped = torch.zeros(total + 1, dtype=torch.bool, device=device)
        self.cache = decoder.new_cache(min(total, settings.max_batch), longest)
        self.state: list[Tensor] = []  # what each row goes on from, row by row
        # Of each row: number of its sample (`total` if empty), seed, tokens made so far, and limit of them.
        self.rows = torch.zeros(4, 0, dtype=torch.long, device=device)
        self.running = self.longest = 0
        self.fresh: list[int] = []  # samples that have ended and were not reported

    @staticmethod
    def ahead(steps: int) -> int:
        """Tokens that a row may be decoded beyond its end in so many steps."""
        return steps

    @property
    def ended(self) -> int:
        return self.total - self.running - sum(len(group.seeds) for group in self.waiting)

    def advance(self) -> bool:
        """Let groups enter, then decode some tokens; false when there is nothing left to do."""
        if self.running <= LEAVE_AT * self.rows.shape[1]:
            self._leave()
            self._enter()
        if self.running:
            self._decode()
        return self.running > 0 or bool(self.waiting)

    def report(self, on_sample: Callable[[int, Sample], None]) -> None:
        """Hand over the samples that have ended since the last call."""
        numbers, self.fresh = self.fresh, []
        for number, each in zip(numbers, self.read(numbers), strict=True):
            on_sample(number, each)

    def read(self, numbers: Sequence[int]) -> Iterator[Sample]:
        """The samples of these numbers, which have ended."""
        place = torch.tensor(numbers, dtype=torch.long, device=self.device)
        columns = (self.ids[place].cpu(), self.logprobs[place].cpu(), self.lengths[place], self.stopped[place])
        for ids, logprobs, length, stopped in zip(*columns[:2], columns[2].tolist(), columns[3].tolist(), strict=True):
            yield Sample(ids[:length].tolist(), logprobs[:length].tolist(), "stop" if stopped else "length")

    def _leave(self) -> None:
        kept = (self.rows[0] < self.total).nonzero().flatten()
        self.rows = self.rows.index_select(1, kept)
        self.state = [each.index_select(0, kept) for each in self.state]
        self.cache.select(kept, self.longest)

    def _enter(self) -> None:
        """Waiting groups come in, in order, while there is room for a whole one."""
        free = self.settings.max_batch - self.running
        entering = []
        while self.waiting and len(self.waiting[0].seeds) <= free:
            entering.append(self.waiting.popleft())
            free -= len(entering[-1].seeds)
        for groups in _portions(entering, PREFILL_TOKENS.get(self.device.type, 4096)):
            self._prefill(groups)

    def _prefill(self, groups: Sequence[Group]) -> None:
        """Compute each prompt once, and make a row of it for each of its seeds."""
        lengths = torch.tensor([len(group.prompt) for group in groups])
        tokens = torch.zeros(len(groups), int(lengths.max()), dtype=torch.long)
        for row, group in zip(tokens, groups, strict=True):
            row[: len(group.prompt)] = torch.tensor(group.prompt)
        rows = [(n, seed, 0, g.limit) for g in groups for n, seed in zip(g.numbers, g.seeds, strict=True)]
        source = [place for place, group in enumerate(groups) for _ in group.seeds]
        self.rows = torch.cat([self.rows, torch.tensor(rows, device=self.device).t()], 1)
        self.running += len(rows)
        self.longest = max(self.longest, tokens.shape[1])
        fresh = self._start(tokens.to(self.device), lengths.to(self.device), torch.tensor(source, device=self.device))
        self.state = [torch.cat(both) for both in zip(self.state, fresh, strict=True)] if self.state else fresh

    def _start(self, tokens_NT: Tensor, lengths_N: Tensor, source_B: Tensor) -> list[Tensor]:
        """Put prompts into the cache, a row for each entry of `source`; returns the new rows' state."""
        latents, logits = self.decoder.prefill(tokens_NT, lengths_N)
        self.cache.extend(latents.index_select(1, source_B), lengths_N[source_B])
        return [logits[source_B]]

    def _decode(self) -> None:
        """`check_every` tokens for every row, then one look at which rows have ended."""
        steps = self.settings.check_every
        numbers, seeds, made, _ = self.rows
        self.cache.reserve(self.longest + steps, ahead=CACHE_AHEAD)
        places = made[:, None] + torch.arange(steps, device=self.device)
        chances = uniform(seeds[:, None], places)
        ids = torch.empty_like(places)
        logprobs = torch.empty(places.shape, device=self.device)
        [logits] = self.state
        for step in range(steps):
            ids[:, step], logprobs[:, step] = draw(logits, chances[:, step], self.settings.greedy, self.settings.top_p)
            logits = self.decoder.step(ids[:, step], self.cache, self.longest + step + 1)
        self.state = [logits]
        self.ids[numbers[:, None], places] = ids
        self.logprobs[numbers[:, None], places] = logprobs
        self._close(torch.isin(ids, self.settings.stop_ids), torch.full_like(made, steps))

    def _close(self, hits: Tensor, drawn: Tensor) -> None:
        """Account for the `drawn` (B,) tokens just made; `hits` (B, most drawn) marks stop ids among them.

        Ended rows become empty.
        """
        numbers, _, made, limits = self.rows
        until_stop = torch.where(hits.any(1), hits.int().argmax(1) + 1, hits.shape[1] + 1)
        added = torch.minimum(torch.minimum(until_stop, limits - made), drawn)
        stopped = until_stop <= added
        made += added
        self.lengths[numbers] = made
        self.stopped[numbers] = stopped
        empty = stopped | (made >= limits) | (numbers == self.total)
        before, was_running = numbers.clone(), self.running
        numbers.masked_fill_(empty, self.total)
        made.masked_fill_(empty, 0)
        self.cache.lengths.masked_fill_(empty, 0)
        look = torch.stack([empty.logical_not().sum(), self.cache.lengths.max()])
        self.running, self.longest = look.tolist()
        if self.running < was_running:
            self.fresh += before[empty & (before < self.total)].tolist()


def _portions(groups: Sequence[Group], tokens: int) -> Iterator[Sequence[Group]]:
    """Runs of groups whose prompts, padded to one length, stay within so many tokens, or are a single one."""
    start = longest = 0
    for end, group in enumerate(groups):
        longest = max(longest, len(group.prompt))
        if end > start and longest * (end + 1 - start) > tokens:
            yield groups[start:end]
            start, longest = end, len(group.prompt)
    if groups:
        yield groups[start:]
