"""The two questions one asks a language model: `sample`, what would you say; `logprobs`, how likely is this.

Shapes: B rows, T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from model.attention import LatentCache
from model.decode import Decoder
from model.loss import token_logprobs
from model.transformer import Transformer

CHECK_EVERY = {"cpu": 4, "cuda": 16}  # steps between two looks at which rows have ended
LEAVE_AT = 0.75  # ended rows leave once no more than this part of the rows still runs
CACHE_AHEAD = 64  # tokens by which the cache grows at a time
PREFILL_TOKENS = {"cpu": 4096, "cuda": 65536}  # prompt tokens, padding included, of one prefill
CANDIDATES = 64  # a nucleus is sought among so many best tokens before the whole vocabulary is sorted


@dataclass(frozen=True, slots=True)
class Sample:
    """Sampled ids with their log-probabilities. Where `finish` is "stop", the last of `ids` is a stop id."""

    ids: list[int]
    logprobs: list[float]
    finish: Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class _Settings:
    greedy: bool
    top_p: float
    stop_ids: Tensor
    check_every: int
    max_batch: int


@dataclass(frozen=True, slots=True)
class _Group:
    """Samples that share one prompt: their numbers in the order of the call, seeds, and limit of tokens."""

    prompt: Sequence[int]
    numbers: Sequence[int]
    seeds: Sequence[int]
    limit: int


def sample(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[Sequence[int]],
    *,
    max_tokens: int | Sequence[int],
    temperature: float,
    top_p: float,
    stop_ids: Collection[int],
    max_batch: int = 512,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[list[Sample]]:
    """Sample len(seeds[i]) completions of prompt i, at most `max_tokens` long (one number, or one a prompt).

    A sample depends on its prompt, its seed and the settings alone, not on batch, order or neighbours (up to
    the rounding of matrix products). Its log-probabilities are those of softmax(logits / temperature), before
    `top_p` cuts the tail off; at temperature 0, which is greedy, those of softmax(logits).
    `max_batch` rows decode together. `on_progress(done, total)` is called as samples end.
    Raises ValueError for an empty prompt, one without room for a token within `max_position_embeddings`,
    a negative temperature, or top_p outside (0, 1].
    """
    _check(model, prompts, seeds, max_tokens, temperature, top_p, max_batch)
    device = model.lm_head.weight.device
    limits = [max_tokens] * len(prompts) if isinstance(max_tokens, int) else max_tokens
    groups, total = _groups(prompts, seeds, limits, model.config.max_position_embeddings, max_batch)
    stops = torch.tensor(sorted(stop_ids), dtype=torch.long, device=device)
    settings = _Settings(temperature == 0, top_p, stops, CHECK_EVERY.get(device.type, 8), max_batch)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            board = _Board(Decoder(model, temperature or 1.0), groups, total, settings)
            unfinished = True
            while unfinished:
                unfinished = board.advance()
                if on_progress:
                    on_progress(board.ended, total)
            flat = iter(board.samples())
    finally:
        model.train(training)
    return [[next(flat) for _ in row] for row in seeds]


def _check(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[Sequence[int]],
    max_tokens: int | Sequence[int],
    temperature: float,
    top_p: float,
    max_batch: int,
) -> None:
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts need as many lists of seeds, got {len(seeds)}")
    limits = [max_tokens] if isinstance(max_tokens, int) else max_tokens
    if not isinstance(max_tokens, int) and len(limits) != len(prompts):
        raise ValueError(f"max_tokens must be one number or {len(prompts)}, got {len(limits)}")
    if any(limit < 1 for limit in limits):
        raise ValueError(f"max_tokens must be at least 1, got {min(limits)}")
    if max_batch < 1:
        raise ValueError(f"max_batch must be at least 1, got {max_batch}")
    if temperature < 0:
        raise ValueError(f"temperature must be at least 0, got {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
    longest = model.config.max_position_embeddings
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {number} is empty")
        if len(prompt) + 1 > longest:
            raise ValueError(f"prompt {number}: {len(prompt)} + 1 tokens exceed max_position_embeddings {longest}")


def _groups(
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[Sequence[int]],
    limits: Sequence[int],
    longest: int,
    max_batch: int,
) -> tuple[deque[_Group], int]:
    """The samples to make, by prompt; a prompt with more seeds than `max_batch` makes several groups."""
    groups: deque[_Group] = deque()
    total = 0
    for prompt, own, limit in zip(prompts, seeds, limits, strict=True):
        for start in range(0, len(own), max_batch):
            part = [_signed(seed) for seed in own[start : start + max_batch]]
            numbers = range(total, total + len(part))
            groups.append(_Group(prompt, numbers, part, min(limit, longest - len(prompt))))
            total += len(part)
    return groups, total


def _signed(seed: int) -> int:
    """The 64 low bits of a seed, as int64."""
    return (seed + 2**63) % 2**64 - 2**63


class _Board:
    """The rows that decode together. Ended rows leave in one go when enough have, and waiting groups enter.

    A row that has ended but not left is empty: it decodes into a line of the results that nobody reads.
    """

    def __init__(self, decoder: Decoder, waiting: deque[_Group], total: int, settings: _Settings) -> None:
        self.decoder, self.waiting, self.settings, self.total = decoder, waiting, settings, total
        self.device = device = decoder.head.device
        width = max((group.limit for group in waiting), default=0) + settings.check_every
        self.ids = torch.zeros(total + 1, width, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(total + 1, width, device=device)
        self.lengths = torch.zeros(total + 1, dtype=torch.long, device=device)
        self.stopped = torch.zeros(total + 1, dtype=torch.bool, device=device)
        self.cache = LatentCache.empty(decoder.config, decoder.head)
        self.logits = decoder.head.new_zeros(0, decoder.config.vocab_size)
        # Of each row: number of its sample (`total` if empty), seed, tokens made so far, and limit of them.
        self.rows = torch.zeros(4, 0, dtype=torch.long, device=device)
        self.running = self.longest = 0

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

    def samples(self) -> Iterator[Sample]:
        """All samples in the order of the call."""
        ids, logprobs = self.ids.cpu(), self.logprobs.cpu()
        ends = zip(self.lengths[: self.total].tolist(), self.stopped.tolist(), strict=False)
        for number, (length, stopped) in enumerate(ends):
            own = ids[number, :length].tolist(), logprobs[number, :length].tolist()
            yield Sample(*own, "stop" if stopped else "length")

    def _leave(self) -> None:
        kept = (self.rows[0] < self.total).nonzero().flatten()
        self.rows = self.rows.index_select(1, kept)
        self.logits = self.logits.index_select(0, kept)
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

    def _prefill(self, groups: Sequence[_Group]) -> None:
        """Compute each prompt once, and make a row of it for each of its seeds."""
        lengths = torch.tensor([len(group.prompt) for group in groups])
        tokens = torch.zeros(len(groups), int(lengths.max()), dtype=torch.long)
        for row, group in zip(tokens, groups, strict=True):
            row[: len(group.prompt)] = torch.tensor(group.prompt)
        lengths = lengths.to(self.device)
        latents, logits = self.decoder.prefill(tokens.to(self.device), lengths)
        rows = [(n, seed, 0, g.limit) for g in groups for n, seed in zip(g.numbers, g.seeds, strict=True)]
        source = [place for place, group in enumerate(groups) for _ in group.seeds]
        place = torch.tensor(source, device=self.device)
        self.cache.extend(latents.index_select(1, place), lengths[place])
        self.logits = torch.cat([self.logits, logits[place]])
        self.rows = torch.cat([self.rows, torch.tensor(rows, device=self.device).t()], 1)
        self.running += len(rows)
        self.longest = max(self.longest, tokens.shape[1])

    def _decode(self) -> None:
        """`check_every` tokens for every row, then one look at which rows have ended."""
        steps = self.settings.check_every
        numbers, seeds, made, _ = self.rows
        self.cache.reserve(self.longest + steps, ahead=CACHE_AHEAD)
        places = made[:, None] + torch.arange(steps, device=self.device)
        chances = uniform(seeds[:, None], places)
        ids = torch.empty_like(places)
        logprobs = torch.empty(places.shape, device=self.device)
        for step in range(steps):
            ids[:, step], logprobs[:, step] = draw(
                self.logits, chances[:, step], self.settings.greedy, self.settings.top_p
            )
            self.logits = self.decoder.step(ids[:, step], self.cache, self.longest + step + 1)
        self.ids[numbers[:, None], places] = ids
        self.logprobs[numbers[:, None], places] = logprobs
        self._close(torch.isin(ids, self.settings.stop_ids))

    def _close(self, hits: Tensor) -> None:
        """Account for the tokens just made; `hits` (B, steps) marks stop ids. Ended rows become empty."""
        numbers, _, made, limits = self.rows
        steps = hits.shape[1]
        until_stop = torch.where(hits.any(1), hits.int().argmax(1) + 1, steps + 1)
        added = torch.minimum(until_stop, limits - made).clamp(max=steps)
        stopped = until_stop <= added
        made += added
        self.lengths[numbers] = made
        self.stopped[numbers] = stopped
        empty = stopped | (made >= limits) | (numbers == self.total)
        numbers.masked_fill_(empty, self.total)
        made.masked_fill_(empty, 0)
        self.cache.lengths.masked_fill_(empty, 0)
        look = torch.stack([empty.logical_not().sum(), self.cache.lengths.max()])
        self.running, self.longest = look.tolist()


def _portions(groups: Sequence[_Group], tokens: int) -> Iterator[Sequence[_Group]]:
    """Runs of groups whose prompts, padded to one length, stay within so many tokens, or are a single one."""
    start = longest = 0
    for end, group in enumerate(groups):
        longest = max(longest, len(group.prompt))
        if end > start and longest * (end + 1 - start) > tokens:
            yield groups[start:end]
            start, longest = end, len(group.prompt)
    if groups:
        yield groups[start:]


def draw(logits_BV: Tensor, chance_B: Tensor, greedy: bool, top_p: float) -> tuple[Tensor, Tensor]:
    """One token a row, at quantile `chance` of softmax(logits) cut to its nucleus; its log-probability uncut.

    The nucleus is the fewest most likely tokens that together have at least `top_p` (1904.09751).
    """
    probs = logits_BV.softmax(-1, dtype=torch.float32)
    if greedy:
        best, ids = probs.max(-1)
        return ids, best.log()
    nucleus = top_p < 1
    ids = _draw_nucleus(probs, chance_B, top_p) if nucleus else _quantile(probs.cumsum(-1), chance_B)
    return ids, probs.gather(1, ids[:, None])[:, 0].log()


def _draw_nucleus(probs_BV: Tensor, chance_B: Tensor, top_p: float) -> Tensor:
    """Most likely tokens first; only rows with a wide nucleus have all their tokens sorted."""
    vocabulary = probs_BV.shape[1]
    best, order = probs_BV.topk(min(CANDIDATES, vocabulary), -1)
    ids = _nucleus_quantile(best, order, chance_B, top_p)
    wide = (best.sum(-1) < top_p).nonzero().flatten()
    if len(wide) and vocabulary > CANDIDATES:
        ids[wide] = _nucleus_quantile(*probs_BV[wide].sort(-1, descending=True), chance_B[wide], top_p)
    return ids


def _nucleus_quantile(best: Tensor, order: Tensor, chance_B: Tensor, top_p: float) -> Tensor:
    total = best.cumsum(-1)
    last = (total < top_p).sum(-1, keepdim=True).clamp(max=total.shape[1] - 1)
    return order.gather(1, _quantile(total, chance_B, total.gather(1, last)[:, 0])[:, None])[:, 0]


def _quantile(total_BV: Tensor, chance_B: Tensor, mass_B: Tensor | None = None) -> Tensor:
    """Index of the first running total beyond chance x mass."""
    mass = total_BV[:, -1] if mass_B is None else mass_B
    found = torch.searchsorted(total_BV, (chance_B * mass)[:, None], right=True)[:, 0]
    return found.clamp_(max=total_BV.shape[1] - 1)


def uniform(seed: Tensor, place: Tensor) -> Tensor:
    """Float32 in [0, 1) with 24 random bits, from int64 seed and place alone (SplitMix64's finaliser)."""
    bits = _mix(_mix(seed) + place * _GOLDEN)
    return ((bits >> 40) & 0xFFFFFF).float() * 2.0**-24


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


_GOLDEN = -0x61C8864680B583EB  # 2^64 / golden ratio, as int64


def logprobs(
    model: Transformer,
    tokens_BT: Tensor,
    *,
    temperature: float = 1.0,
    mask_BT: Tensor | None = None,
    valid_BT: Tensor | None = None,
    chunk: int = 1024,
    return_entropy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Log-probability (B, T - 1) of each next token of right-padded rows, with gradient where it is enabled.

    Entry t belongs to token t + 1. Where `mask_BT` (B, T - 1) is given, the head is spared its other entries,
    which are 0; without it, those of padding mean nothing. Logits exist for `chunk` tokens at a time.
    Tokens outside `valid_BT` (B, T) do not count as load of an expert where that is counted.
    `return_entropy` adds the entropy (B, T - 1) of the distributions in nats, without gradient.
    Raises ValueError unless the temperature is positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    targets = tokens_BT[:, 1:]
    wanted = torch.ones_like(targets, dtype=torch.bool) if mask_BT is None else mask_BT.bool()
    hidden = model.hidden(tokens_BT, valid_BT)[:, :-1][wanted]
    values, entropy = token_logprobs(
        hidden,
        model.lm_head.weight,
        targets[wanted],
        temperature=temperature,
        chunk=chunk,
        entropy=return_entropy,
    )
    blank = values.new_zeros(targets.shape)
    placed = blank.masked_scatter(wanted, values)
    return placed if entropy is None else (placed, blank.masked_scatter(wanted, entropy))
