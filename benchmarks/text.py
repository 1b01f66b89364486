"""Windows of the miniature's crawl, kept in `build/text.npz` once they were made."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

KEPT = Path(__file__).parent.parent / "build" / "text.npz"
DOCUMENTS = 150_000


@cache
def _all() -> np.ndarray:
    if not KEPT.is_file():
        from tasks.crawl import CrawlConfig, crawl
        from tasks.sft import build_tokenizer

        KEPT.parent.mkdir(exist_ok=True)
        made = crawl(build_tokenizer(), CrawlConfig(documents=DOCUMENTS)).astype(np.uint16)
        np.savez_compressed(KEPT, windows=made)
    return np.load(KEPT)["windows"]


def windows(count: int | None = None, length: int = 192) -> Tensor:
    """The first windows (N, length) of token ids, or all."""
    flat = torch.from_numpy(_all().reshape(-1))
    return flat[: len(flat) // length * length].view(-1, length)[:count].long()
