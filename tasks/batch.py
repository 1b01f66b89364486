"""The one place where rows become tensors: pad and mask, in batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.device import memory_of
from model.language import LanguageModel

MICROBATCH_TOKENS = {"cpu": 2_000, "cuda": 8_000}
"""Padded tokens of one pass through a model. A CPU is held up by padding, a GPU by many small passes."""

SHARE = 0.4
"""Part of what weights and optimiser leave of a GPU's memory that the activations of a pass may take."""

HELD_BYTES = 22
"""Of a parameter that is trained: it, its gradient, two moments and a reference in float32, the sampler's copy."""

FEWEST, MOST = 1_000, 32_000
"""Tokens of a pass that is sized by memory."""

ENOUGH = 5 * 10**12
"""Tokens times parameters of a pass beside which launching its kernels costs little."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded sequences. `tokens` (B, T) int64; `mask` (B, T-1) float: 1 where the next token is learned."""

    tokens: Tensor
    mask: Tensor
    valid: Tensor
    index: list[int]


def pass_tokens(model: LanguageModel, device: str) -> int:
    """Padded tokens of one pass that learns: as many as keep a GPU busy, where its whole memory has room for them.

    Counted from what the device has, not from what is free, so that equal runs have equal passes.
    """
    kind = device.partition(":")[0]
    if kind != "cuda" or model.activation_bytes is None:
        return MICROBATCH_TOKENS[kind]
    held = sum(HELD_BYTES * each.numel() if each.requires_grad else each.nbytes for each in model.parameters())
    parameters = sum(each.numel() for each in model.parameters())
    return fitting(parameters, model.activation_bytes, held, memory_of(device))


def fitting(parameters: int, a_token: int, held: int, memory: int) -> int:
    """Tokens of a pass at so many bytes each, beside what is held of a memory."""
    useful = max(MICROBATCH_TOKENS["cuda"], min(MOST, ENOUGH // parameters))
    return max(FEWEST, min(useful, int(SHARE * (memory - held)) // a_token))


def pad(
    sequences: Sequence[Sequence[int]],
    prompt_lengths: Sequence[int],
    index: list[int],
    pad_id: int | None,
    device: str,
) -> Batch:
    """Pad sequences of prompt + completion; only completion tokens are learned.

    What fills a row is never read; `pad_id` is None for a tokenizer that has no such token.
    """
    longest = max(len(sequence) for sequence in sequences)
    tokens = np.full((len(sequences), longest), pad_id or 0, dtype=np.int64)
    lengths = np.array([len(sequence) for sequence in sequences])[:, None]
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = sequence
    at = np.arange(longest)[None, :]
    valid = at < lengths
    mask = valid & (at >= np.array(prompt_lengths)[:, None])
    return Batch(
        torch.from_numpy(tokens).to(device),
        torch.from_numpy(mask[:, 1:].astype(np.float32)).to(device),
        torch.from_numpy(valid).to(device),
        index,
    )


def microbatches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Group indices so that each padded group has at most `max_tokens` tokens (or one sequence), by length.

    Sorting by length keeps padding small: it is what makes an update cheap when lengths differ.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if groups and (len(groups[-1]) + 1) * lengths[index] <= max_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def padded_batches(
    sequences: Sequence[Sequence[int]],
    prompt_lengths: Sequence[int],
    *,
    pad_id: int | None,
    device: str,
    max_tokens: int | None = None,
) -> Iterator[Batch]:
    """Yield the sequences as padded batches of similar length; `index` says which ones.

    `max_tokens` of a batch are those of the device in `MICROBATCH_TOKENS` when left out.
    """
    limit = max_tokens or MICROBATCH_TOKENS[device.partition(":")[0]]
    for group in microbatches([len(sequence) for sequence in sequences], limit):
        yield pad([sequences[i] for i in group], [prompt_lengths[i] for i in group], group, pad_id, device)
