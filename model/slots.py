"""What a captured step needs: a cache that stays where it is, work that is recorded once, few sizes of batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from model.attention import LatentCache


def bucket(rows: int) -> int:
    """The least of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that is not below `rows`."""
    power = 1 << max(0, rows - 1).bit_length()
    return power * 3 // 4 if power >= 4 and rows <= power * 3 // 4 else power


class SlotCache(LatentCache):
    """A cache of fixed place and size, so that a captured step finds it. Rows fill its slots from the first on."""

    def __init__(self, data_LBTK: Tensor) -> None:
        self.data, self.count = data_LBTK, 0
        self.slots = torch.zeros(data_LBTK.shape[1], dtype=torch.long, device=data_LBTK.device)

    @property
    def lengths(self) -> Tensor:  # type: ignore[override]
        return self.slots[: self.count]

    @property
    def _rows(self) -> Tensor:  # type: ignore[override]
        return torch.arange(self.count, device=self.slots.device)

    def reserve(self, capacity: int, ahead: int = 0) -> None:
        """Raises ValueError where rows of `capacity` tokens do not fit: nothing is moved."""
        if capacity > self.capacity:
            raise ValueError(f"{capacity} tokens do not fit a cache of {self.capacity}")

    def extend(self, latents_LBTK: Tensor, lengths_B: Tensor) -> None:
        added = slice(self.count, self.count + len(lengths_B))
        self.data[:, added, : latents_LBTK.shape[2]] = latents_LBTK
        self.slots[added] = lengths_B
        self.count = added.stop

    def select(self, rows: Tensor, longest: int) -> None:
        for layer in self.data:
            layer[: len(rows), :longest] = layer[:, :longest].index_select(0, rows)
        kept = self.slots.index_select(0, rows)
        self.clear()
        self.count = len(rows)
        self.slots[: self.count] = kept

    def clear(self) -> None:
        """Let all rows leave."""
        self.count = 0
        self.slots.zero_()

    def first(self, rows: int) -> SlotCache:
        """The same storage, of which so many slots count."""
        view = type(self).__new__(type(self))
        view.data, view.slots, view.count = self.data, self.slots, rows
        return view


class Captured:
    """Work on fixed tensors, recorded once; it must be such that doing it twice does no harm."""

    def __init__(self, work: Callable[[], tuple[Tensor, ...]], pool: Any) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work()  # compiles kernels, makes workspaces
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            self.result = work()

    def __call__(self) -> tuple[Tensor, ...]:
        """The same tensors each time, overwritten by the next call."""
        self.graph.replay()
        return self.result
