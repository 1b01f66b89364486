"""What a device has, and which GPU a thread works on where a machine has several."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch


def current(device: str) -> AbstractContextManager[object]:
    """Let streams, graphs and kernels of this thread go to the GPU of `cuda:1`; they do not go by their tensors.

    For `cpu`, and for `cuda`, which is the GPU that is current anyway, nothing changes.
    """
    return torch.cuda.device(device) if device.startswith("cuda:") else nullcontext()


def memory_of(device: torch.device | str) -> int:
    """The bytes of a GPU's memory, or of this machine's: all of them, free or not."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
