"""Decoding of models of transformers on a GPU: a bfloat16 copy of the weights, and steps captured in CUDA graphs.

There is a graph for each bucket of rows and of tokens, over a cache that stays where it is. Decoder, copy and
graphs are kept from one call to the next, as long as the model lives; before each, the copy takes over the
weights, which training has moved. A cache that is too large to lie idle while the model trains is given up,
and the graphs with it.

Shapes: B rows, L layers, T tokens, K entry of the cache, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from model.attention import LatentCache
from model.device import memory_of
from model.foreign import EXPERTS, ForeignModel
from model.foreign_attention import pack_heads
from model.foreign_decode import ForeignDecoder
from model.slots import Captured, SlotCache, bucket

LEAST = 32  # rows of the smallest bucket: fewer take as long, and recording a step takes longer
WIDTH = 256  # tokens by which what a step attends to grows
ALIGNED = 64  # tokens by which a cache grows; attention reads a mask by 8
FILLED = 0.8  # part of the free memory that a cache may take
KEPT = 0.15  # part of a device's memory; a larger cache does not outlive its samples
UNCAPTURED_ROPES = {"dynamic", "longrope"}

Work = Callable[[], tuple[Tensor, ...]]
Capture = Callable[[Work], Work]
_kept: WeakKeyDictionary[ForeignModel, CapturingDecoder] = WeakKeyDictionary()


class CapturingDecoder(ForeignDecoder):
    """A decoder of many calls: `begin` before the samples of one, `close` after them.

    `recorder` makes what records a step and returns what replays it; the steps that one recorded share their memory.
    """

    @torch.no_grad()
    def __init__(self, model: ForeignModel, kind: torch.dtype, recorder: Callable[[], Capture], width: int) -> None:
        self.own = ForeignModel(in_type(model.inner, kind))
        pack_heads(self.own.inner)
        super().__init__(self.own)
        self.recorder, self.grain = recorder, width
        self._forget()

    @torch.no_grad()
    def begin(self, model: ForeignModel, temperature: float) -> CapturingDecoder:
        """Take over the weights of the model that this decoder was made for."""
        theirs = dict(model.inner.named_parameters())
        for name, own in self.own.inner.named_parameters():
            if own.data_ptr() != theirs[name].data_ptr():
                own.copy_(theirs[name])
        self.temperature = temperature
        return self

    def _forget(self) -> None:
        self.cache: SlotCache | None = None
        self.graphs: dict[tuple[int, int], tuple[Tensor, Work]] = {}
        self.capture = self.recorder()  # memory that no graph shares any more takes no new one

    def close(self) -> None:
        if self.cache is not None and self.cache.data.nbytes > KEPT * memory_of(self.device):
            self._forget()

    def rows_that_fit(self, tokens: int) -> int | None:
        if not self.head.is_cuda:
            return None
        row = self.layers * tokens * self.width * self.head.element_size()
        free = torch.cuda.mem_get_info(self.device)[0]
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        kept = self.cache.data.nbytes if self.cache is not None else 0
        return max(1, int(FILLED * (free + unused + kept)) // row)

    def new_cache(self, rows: int, tokens: int) -> LatentCache:
        """The cache of the last call where that is large enough, without rows."""
        rows, tokens = bucket(max(1, rows)), -(-tokens // ALIGNED) * ALIGNED
        if self.cache is None or len(self.cache.slots) < rows or self.cache.capacity < tokens:
            self._forget()  # so that there is room for the new one
            self.cache = SlotCache(self.head.new_zeros(self.layers, rows, tokens, self.width))
        self.cache.clear()
        return self.cache

    def step(self, tokens_B: Tensor, cache: LatentCache, longest: int) -> Tensor:
        """As `ForeignDecoder.step`, by the graph of the smallest bucket of rows and tokens that holds them."""
        assert isinstance(cache, SlotCache)
        count = len(tokens_B)
        rows = min(bucket(max(count, LEAST)), len(cache.slots))
        width = min(-(-longest // self.grain) * self.grain, cache.capacity)
        if (rows, width) not in self.graphs:
            fixed = tokens_B.new_zeros(rows)
            work = partial(self._work, fixed, cache.first(rows), width)
            self.graphs[rows, width] = fixed, self.capture(work)
        fixed, replay = self.graphs[rows, width]
        fixed[:count] = tokens_B
        [logits] = replay()
        cache.advance()
        return logits[:count] / self.temperature

    def _work(self, tokens_B: Tensor, cache: SlotCache, longest: int) -> tuple[Tensor, ...]:
        return (self.forward(tokens_B, cache, longest),)


def in_type(inner: Any, kind: torch.dtype) -> Any:
    """A model of transformers with its weights in another type, buffers as they are; itself where they are in it.

    Weights that are in that type, as an adapter's base has them, are those of the model, not copies.
    """
    others = [weight for weight in inner.parameters() if weight.dtype != kind]
    if not others:
        return inner
    shared = {id(weight): weight for weight in inner.parameters() if weight.dtype == kind}
    copies = {id(weight): nn.Parameter(weight.detach().to(kind), requires_grad=False) for weight in others}
    return copy.deepcopy(inner, {**shared, **copies})


def on_gpu(model: ForeignModel, temperature: float) -> CapturingDecoder:
    """The decoder that is kept for a model on a GPU, ready for its samples."""
    if model not in _kept:
        recorder = _in_graphs if can_be_captured(model.config) else _as_they_are
        _kept[model] = CapturingDecoder(model, torch.bfloat16, recorder, WIDTH)
    return _kept[model].begin(model, temperature)


def can_be_captured(config: Any) -> bool:
    """Whether a step asks the CPU nothing: experts ask for their loads, and some rotations for the longest position."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {each.get("rope_type") for each in (rope, *rope.values()) if isinstance(each, dict)}
    return not kinds & UNCAPTURED_ROPES and not any(getattr(config, name, None) for name in EXPERTS)


def _in_graphs() -> Capture:
    pool = torch.cuda.graph_pool_handle()
    return lambda work: Captured(work, pool)


def _as_they_are() -> Capture:
    return lambda work: work
