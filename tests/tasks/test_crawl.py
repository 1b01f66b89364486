"""The crawl: the same stream whoever writes it, cut into windows."""

from __future__ import annotations

import numpy as np
import pytest

from data.world.corpus import documents
from model.tokenizer import Tokenizer
from tasks import crawl as writing
from tasks.crawl import CrawlConfig, crawl, pack


@pytest.mark.parametrize("shard", [40, 1000])
def test_the_crawl_is_that_of_its_shards_whoever_writes_them(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, shard: int
) -> None:
    monkeypatch.setattr(writing, "SHARD", shard)
    windows = crawl(tokenizer, CrawlConfig(documents=60, sequence_length=16, seed=5))
    texts = [*documents(5, 0, 40), *documents(5, 1, 20)] if shard == 40 else documents(5, 0, 60)
    stream = [token for text in texts for token in (*tokenizer.encode(text), tokenizer.eos_id)]
    assert windows.flatten().tolist() == stream[: len(stream) // 16 * 16]


def test_what_fills_no_window_is_left_out() -> None:
    assert pack(np.arange(11), 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert pack(np.arange(3), 4).shape == (0, 4)
