"""Processes that train one model together, each on its share of the rows: what they ask each other.

Each rank holds the whole model and takes the same steps. As with DDP, gradients are summed over the ranks once
the last micro-batch is through; losses are divided by the counts of the whole step, so the sums are those of one
process. A process that belongs to no group is the only rank: nothing is sent, and values come back as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

T = TypeVar("T")
S = TypeVar("S", bound=Any)  # a sequence of any kind, arrays too

BUCKET_BYTES = 64 * 2**20
"""Gradients that are sent together: a message each would wait for the network's latency as often."""


def size() -> int:
    """How many ranks there are."""
    return distributed.get_world_size() if _together() else 1


def rank() -> int:
    """Which of them this process is, from 0."""
    return distributed.get_rank() if _together() else 0


def mine(items: S) -> S:
    """This rank's share of items that all ranks have: every `size`-th, so that neighbours are spread."""
    share: S = items[rank() :: size()]
    return share


def merged(share: list[T]) -> list[T]:
    """Put the ranks' shares together again, in the order that `mine` took them from."""
    shares = gathered(share)
    return [shares[i % size()][i // size()] for i in range(sum(map(len, shares)))] if len(shares) > 1 else share


def wait() -> None:
    """Go on when all ranks have come here."""
    gathered(None)


def gathered(value: T) -> list[T]:
    """What each rank has, by rank."""
    if not _together():
        return [value]
    values: list[T | None] = [None] * size()
    distributed.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # torch fills each place


def total(values: Mapping[str, float]) -> dict[str, float]:
    """Sum figures over the ranks by name; one that a rank lacks counts 0 there."""
    sums: dict[str, float] = {}
    for each in gathered(values):
        for name, value in each.items():
            sums[name] = sums[name] + value if name in sums else value
    return sums


def from_first(make: Callable[[], T]) -> T:
    """Let rank 0 make a value, and give it to all."""
    if not _together():
        return make()
    values = [make() if rank() == 0 else None]
    distributed.broadcast_object_list(values, src=0)
    return values[0]  # type: ignore[return-value]  # made by rank 0


@torch.no_grad()
def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Make each gradient the sum over the ranks; one that no rank has stays None."""
    if not _together():
        return
    trained = [each for each in parameters if each.requires_grad]
    had = torch.tensor([each.grad is not None for each in trained], dtype=torch.int32, device=trained[0].device)
    distributed.all_reduce(had)
    for each, count in zip(trained, had.tolist(), strict=True):
        if count and each.grad is None:
            each.grad = torch.zeros_like(each)
    for bucket in _buckets([each.grad for each in trained if each.grad is not None]):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        distributed.all_reduce(flat)
        for gradient, summed in zip(bucket, flat.split([each.numel() for each in bucket]), strict=True):
            gradient.copy_(summed.view_as(gradient))


def _buckets(gradients: Sequence[Tensor]) -> list[list[Tensor]]:
    """Neighbours of one type, in buckets of at most `BUCKET_BYTES` (or one gradient)."""
    buckets: list[list[Tensor]] = []
    filled = 0
    for each in gradients:
        filled += each.nbytes
        if not buckets or filled > BUCKET_BYTES or each.dtype != buckets[-1][-1].dtype:
            buckets.append([])
            filled = each.nbytes
        buckets[-1].append(each)
    return buckets


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()
