"""The two questions one asks a language model: `sample`, what would you say; `logprobs`, how likely is this.

Shapes: B rows, T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from model.board import CHECK_EVERY, Board, Group, RowDecoder, Sample, Settings
from model.decode import Decoder, decoder_for
from model.foreign import ForeignModel
from model.language import LanguageModel
from model.loss import token_logprobs
from model.speculate import DraftingBoard, Drafts
from model.transformer import Transformer

__all__ = ["Drafts", "Sample", "logprobs", "sample"]

SPARE = 64  # tokens of a row beyond its prompt and limit, which steps between two looks may make


def sample(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[Sequence[int]],
    *,
    max_tokens: int | Sequence[int],
    temperature: float,
    top_p: float,
    stop_ids: Collection[int],
    max_batch: int = 512,
    drafts: Drafts | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_sample: Callable[[int, Sample], None] | None = None,
) -> list[list[Sample]]:
    """Sample len(seeds[i]) completions of prompt i, at most `max_tokens` long (one number, or one a prompt).

    A sample depends on its prompt, its seed and the settings alone, not on batch, order or neighbours (up to
    the rounding of matrix products). Its log-probabilities are those of softmax(logits / temperature), before
    `top_p` cuts the tail off; at temperature 0, which is greedy, those of softmax(logits).
    At most `max_batch` rows decode together, fewer where a GPU's memory holds fewer. With `drafts` the
    multi-token layer guesses a token ahead of each, which changes the time alone; guesses are counted there.
    `on_progress(done, total)` is called as samples end, and `on_sample(number, sample)` for each of them, numbered
    through all prompts, while others still decode.
    Raises ValueError for an empty prompt, one without room for a token within the model's context,
    a negative temperature, top_p outside (0, 1], or drafts of a model without a multi-token layer.
    """
    _check(model, prompts, seeds, max_tokens, temperature, top_p, max_batch)
    if drafts is not None and not model.has_multi_token:
        raise ValueError("num_nextn_predict_layers is 0: this model has no multi-token layer to draft with")
    device = model.head.device
    limits = [max_tokens] * len(prompts) if isinstance(max_tokens, int) else max_tokens
    stops = torch.tensor(sorted(stop_ids), dtype=torch.long, device=device)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            decoder = _decoder(model, temperature or 1.0, drafts is not None)
            room = decoder.rows_that_fit(max(map(len, prompts), default=0) + max(limits, default=0) + SPARE)
            most = max_batch if room is None else min(max_batch, room)
            groups, total = _groups(prompts, seeds, limits, model.context, most)
            settings = Settings(temperature == 0, top_p, stops, CHECK_EVERY.get(device.type, 8), most)
            if drafts is not None and isinstance(decoder, Decoder):
                board: Board = DraftingBoard(decoder, groups, total, settings, drafts)
            else:
                board = Board(decoder, groups, total, settings)
            unfinished = True
            while unfinished:
                unfinished = board.advance()
                if on_sample:
                    board.report(on_sample)
                if on_progress:
                    on_progress(board.ended, total)
            flat = iter(list(board.read(range(total))))
            decoder.close()
    finally:
        model.train(training)
    return [[next(flat) for _ in row] for row in seeds]


def _decoder(model: LanguageModel, temperature: float, drafts: bool) -> RowDecoder:
    if isinstance(model, ForeignModel):
        from model.foreign_decode import foreign_decoder  # brings transformers in

        return foreign_decoder(model, temperature)
    assert isinstance(model, Transformer)
    return decoder_for(model, temperature, drafts)


def _check(
    model: LanguageModel,
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
    longest = model.context
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
) -> tuple[deque[Group], int]:
    """The samples to make, by prompt; a prompt with more seeds than `max_batch` makes several groups."""
    groups: deque[Group] = deque()
    total = 0
    for prompt, own, limit in zip(prompts, seeds, limits, strict=True):
        for start in range(0, len(own), max_batch):
            part = [_signed(seed) for seed in own[start : start + max_batch]]
            numbers = range(total, total + len(part))
            groups.append(Group(prompt, numbers, part, min(limit, longest - len(prompt))))
            total += len(part)
    return groups, total


def _signed(seed: int) -> int:
    """The 64 low bits of a seed, as int64."""
    return (seed + 2**63) % 2**64 - 2**63


def logprobs(
    model: LanguageModel,
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
        model.head,
        targets[wanted],
        temperature=temperature,
        chunk=chunk,
        entropy=return_entropy,
    )
    blank = values.new_zeros(targets.shape)
    placed = blank.masked_scatter(wanted, values)
    return placed if entropy is None else (placed, blank.masked_scatter(wanted, entropy))
