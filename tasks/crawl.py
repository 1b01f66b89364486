"""The miniature world's crawl: documents, as one stream of token ids, cut into windows.

Imports no torch, so that the processes that write it start at once.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import tokenizers
from pydantic import Field

from data.lineage import Settings
from data.parent import die_with_parent
from data.world.corpus import documents
from data.world.mixture import Mixture
from model.tokenizer import Tokenizer

SHARD = 10_000
"""Documents of a shard; the crawl does not depend on how many processes write it."""


class CrawlConfig(Settings):
    """What a base model reads."""

    mixture: Mixture = Mixture()
    documents: int = Field(1_400_000, ge=1, description="documents of the crawl")
    sequence_length: int = Field(192, ge=8)
    seed: int = 0


def crawl(tokenizer: Tokenizer, config: CrawlConfig) -> np.ndarray:
    """Write the crawl and cut it into windows (N, sequence_length) of token ids."""
    source = tokenizer.inner.to_str()
    jobs = [
        (config.seed, shard, min(SHARD, config.documents - shard * SHARD), config.mixture, source, tokenizer.eos_id)
        for shard in range(math.ceil(config.documents / SHARD))
    ]
    if len(jobs) == 1:
        return pack(_shard(jobs[0]), config.sequence_length)
    spawn = get_context("spawn")
    with ProcessPoolExecutor(max_workers=os.cpu_count(), mp_context=spawn, initializer=die_with_parent) as workers:
        return pack(np.concatenate(list(workers.map(_shard, jobs))), config.sequence_length)


def _shard(job: tuple[int, int, int, Mixture, str, int]) -> np.ndarray:
    seed, shard, count, mixture, source, end = job
    inner = tokenizers.Tokenizer.from_str(source)
    encoded = inner.encode_batch_fast(list(documents(seed, shard, count, mixture)), add_special_tokens=False)
    return np.concatenate([np.asarray([*each.ids, end], dtype=np.int32) for each in encoded])


def pack(stream: np.ndarray, length: int) -> np.ndarray:
    """Cut a stream of token ids into windows (N, length); the rest is left out."""
    count = len(stream) // length
    return stream[: count * length].reshape(count, length)
