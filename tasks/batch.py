"""The one place where rows become tensors: pack, pad, mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded sequences. `tokens` (B, T) int64; `mask` (B, T-1) float: 1 where the next token is learned."""

    tokens: Tensor
    mask: Tensor
    valid: Tensor
    index: list[int]


def pad(
    sequences: Sequence[Sequence[int]],
    prompt_lengths: Sequence[int],
    index: list[int],
    pad_id: int,
    device: str,
) -> Batch:
    """Pad sequences of prompt + completion; only completion tokens are learned."""
    longest = max(len(sequence) for sequence in sequences)
    tokens = np.full((len(sequences), longest), pad_id, dtype=np.int64)
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
    max_tokens: int,
    pad_id: int,
    device: str,
) -> Iterator[Batch]:
    """Yield the sequences as padded batches of similar length; `index` says which ones."""
    for group in microbatches([len(sequence) for sequence in sequences], max_tokens):
        yield pad([sequences[i] for i in group], [prompt_lengths[i] for i in group], group, pad_id, device)


def pack(flat: np.ndarray, length: int) -> np.ndarray:
    """Cut a stream of token ids into windows (N, length); the rest is left out."""
    count = len(flat) // length
    return flat[: count * length].reshape(count, length)
