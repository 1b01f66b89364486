"""DeepSeek-V3's official weights: float8 in blocks, each with the inverse of the scale it was multiplied by.

A quantised tensor `x.weight` (float8_e4m3fn) stands beside `x.weight_scale_inv` (float32), one value for
each block of 128 x 128, whole or cut by the edge (V3 report, section 3.3; README_WEIGHTS.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

SCALE = "_scale_inv"
_BLOCK = (128, 128)


def block_size(config: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of a block, as a `config.json` says. Raises ValueError for another kind of quantisation."""
    wanted = config.get("quantization_config") or {}
    method, fmt = wanted.get("quant_method", "fp8"), wanted.get("fmt", "e4m3")
    if (method, fmt) != ("fp8", "e4m3"):
        raise ValueError(f"quantization_config must be fp8 in e4m3, got {method!r} in {fmt!r}")
    block = tuple(wanted.get("weight_block_size") or _BLOCK)
    if len(block) != 2 or any(not isinstance(size, int) or size < 1 for size in block):
        raise ValueError(f"quantization_config weight_block_size must be two numbers of at least 1, got {block}")
    return block


def is_quantised(dtype: torch.dtype) -> bool:
    return dtype == torch.float8_e4m3fn


def check_shapes(shapes: Mapping[str, torch.Size], block: tuple[int, int]) -> None:
    """Raises ValueError, naming it, for a scale without its weight, or of a shape that does not fit the weight."""
    for name in (name for name in shapes if name.endswith(SCALE)):
        weight = name.removesuffix(SCALE)
        if weight not in shapes:
            raise ValueError(f"unexpected tensor {name!r}: there is no {weight!r} that it scales")
        expected = tuple(-(-size // step) for size, step in zip(shapes[weight], block, strict=True))
        if tuple(shapes[name]) != expected:
            raise ValueError(f"tensor {name!r} must be {expected}, got {tuple(shapes[name])}")


def dequantise(weight: Tensor, scale_inv: Tensor, block: tuple[int, int] = _BLOCK) -> Tensor:
    """weight (O, I) times the value of its block in scale_inv (ceil(O / 128), ceil(I / 128)), in float32."""
    scale = scale_inv.float().repeat_interleave(block[0], 0)[: weight.shape[0]]
    return weight.float() * scale.repeat_interleave(block[1], 1)[:, : weight.shape[1]]


def quantise(weight: Tensor, block: tuple[int, int] = _BLOCK) -> tuple[Tensor, Tensor]:
    """A weight (O, I) in float8, and the inverse scale of each block: largest magnitude / 448."""
    rows, columns = weight.shape
    high, wide = -(-rows // block[0]), -(-columns // block[1])
    padded = weight.new_zeros(high * block[0], wide * block[1], dtype=torch.float32)
    padded[:rows, :columns] = weight
    tiles = padded.unflatten(1, (wide, -1)).unflatten(0, (high, -1))  # (high, block, wide, block)
    scale_inv = tiles.abs().amax((1, 3)).clamp(min=1e-4) / 448.0
    scaled = (tiles / scale_inv[:, None, :, None]).to(torch.float8_e4m3fn)
    return scaled.flatten(2).flatten(0, 1)[:rows, :columns].contiguous(), scale_inv
