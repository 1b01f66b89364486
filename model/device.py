"""Which GPU a thread works on, where a machine has several."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def current(device: str) -> AbstractContextManager[object]:
    """Let streams, graphs and kernels of this thread go to the GPU of `cuda:1`; they do not go by their tensors.

    For `cpu`, and for `cuda`, which is the GPU that is current anyway, nothing changes.
    """
    return torch.cuda.device(device) if device.startswith("cuda:") else nullcontext()
