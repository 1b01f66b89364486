"""Which processes take turns."""

from __future__ import annotations

import pytest

from data.lock import lane, locked


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [
        ("cpu", None, "cpu"),
        ("cuda", None, "cuda-0"),
        ("cuda:1", None, "cuda-1"),
        ("cuda", "1", "cuda-1"),
        ("cuda:1", "3, 2", "cuda-2"),
        ("cuda", "GPU-8f1a", "cuda-GPU-8f1a"),
        ("cuda:1", "0", "cuda-1"),
    ],
)
def test_the_first_gpu_of_one_process_may_be_the_second_of_another(monkeypatch, device, visible, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert lane(device) == expected


def test_a_lock_is_free_again_after_its_block(tmp_path):
    for _ in range(2):
        with locked(tmp_path / "lock", wait=False):
            pass
