"""A thread's GPU is left alone where none is named."""

from __future__ import annotations

import pytest
import torch

from model.device import current


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_nothing_changes_for_a_device_without_a_number(device):
    with current(device):
        assert torch.zeros(2).device.type == "cpu"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_gpu_of_a_number_is_current_inside_only():
    with current("cuda:1"):
        assert torch.cuda.current_device() == 1
        assert torch.zeros(2, device="cuda").device.index == 1
    assert torch.cuda.current_device() == 0
