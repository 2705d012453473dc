"""Winograd's convolution with its transforms in C on a CPU: all products of a tile at a time.

A tile has 2x2 outputs (winograd.py says how). In float32 and wider it may have 3x3 or 4x4: 25 products for
81, or 36 for 144. With 256 channels errors in float32 are 5e-7, 2e-6 and 3e-6 of the norm, by side.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from afdcd.losses.inputs import full_precision, wide
from afdcd.losses.product import in_memory, product
from afdcd.native.kernels import call

FILTER_ROWS = 100
"""What transforms of filters take in a training, in rows of each product. It is a little more than by time
alone, since larger tiles hold more numbers of filters in memory."""
_LINE, _PAGE = 64, 4096
"""Bytes. Planes whole pages apart would take each other's places in the nearest cache."""


def native_winograd(
    features: Tensor, weight: Tensor, bias: Tensor, dilation: int = 1, side: int | None = None
) -> Tensor:
    """`conv2d(features, weight, bias, padding=1)` where there are kernels; second derivatives are refused.

    With a dilation, which is the padding then, cells of each of its grids are neighbours.

    A map in bfloat16 is multiplied in it, with a weight in float32: the transforms add in float32 and
    round once.

    Args:
        features: (B, C, H, W), float32, float64 or bfloat16.
        weight: (O, C, 3, 3).
        bias: (O,).
        dilation: from cell to cell that a filter reads.
        side: outputs along a side of a tile, 2 to 4 (2 in bfloat16); by default what takes the least work.

    Returns:
        (B, O, H, W) in the map's precision, channels last in memory.
    """
    kind = wide(features.new_empty(0)).dtype
    side = side or cheapest_side(features, FILTER_ROWS, dilation)
    with full_precision(features):
        found: Tensor = _Native.apply(features, weight.to(kind), bias.to(kind), side, dilation)
    return found


def cheapest_side(features: Tensor, filter_rows: int = 0, dilation: int = 1) -> int:
    """Outputs along a side of the tile that takes the least work for a map (B, C, H, W)."""
    sides = (2,) if features.dtype == torch.bfloat16 else (2, 3, 4)
    return min(sides, key=lambda side: work(features, side, filter_rows, dilation))


def work(features: Tensor, side: int, filter_rows: int = 0, dilation: int = 1) -> int:
    """Products for each pair of channels, where transforms of filters count as so many rows of each."""
    return (side + 2) ** 2 * (_tiles(features, side, dilation) + filter_rows)


def transformed(weight: Tensor, side: int, like: Tensor) -> Tensor:
    """A weight (O, C, 3, 3) -> its numbers of a tile (T, O, C) in the precision of `like`."""
    taps = by_pixels(weight)
    planes = _planes(like, side, len(weight), weight.shape[1])
    call(
        f"winograd{side}_filters",
        like,
        taps,
        in_memory(planes),
        *(len(weight), weight.shape[1], planes.stride(0)),
    )
    return planes


def taken(features: Tensor, side: int, dilation: int = 1) -> Tensor:
    """A map (B, C, H, W) -> its tiles' numbers (T, N, C)."""
    rows = by_pixels(features)
    planes = _planes(rows, side, _tiles(features, side, dilation), rows.shape[3])
    call(f"winograd{side}_inputs", rows, rows, in_memory(planes), *rows.shape, dilation, planes.stride(0))
    return planes


def given(outs: Tensor, bias: Tensor, side: int, size: torch.Size, dilation: int = 1) -> Tensor:
    """Tiles' products (T, N, O) -> a map (B, O, H, W), with B, H and W of `size` (B, C, H, W)."""
    found = outs.new_empty(size[0], *size[2:], outs.shape[2])
    call(
        f"winograd{side}_outputs",
        outs,
        *(in_memory(outs), bias.contiguous(), found),
        *(*found.shape, dilation, outs.stride(0)),
    )
    return found.permute(0, 3, 1, 2)


class _Native(torch.autograd.Function):
    """What is kept for the backward pass is two to four times the map; it comes next, and needs as much."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, side: int, dilation: int) -> Tensor:
        inputs, filters = taken(features, side, dilation), transformed(weight, side, features)
        ctx.save_for_backward(inputs, filters)
        ctx.form, ctx.size = (side, dilation), features.shape
        return given(product(inputs, filters), bias, side, features.shape, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        inputs, filters = ctx.saved_tensors
        (side, dilation), (batch, channels, height, width) = ctx.form, ctx.size
        rows, outputs = by_pixels(upstream), filters.shape[1]
        slopes = _planes(rows, side, inputs.shape[1], outputs)
        call(f"winograd{side}_slopes", rows, rows, in_memory(slopes), *rows.shape, dilation, slopes.stride(0))
        to_features = rows.new_empty(batch, height, width, channels)
        outs = product(slopes, filters.mT)
        sizes = *to_features.shape, dilation, outs.stride(0)
        call(f"winograd{side}_to_inputs", rows, in_memory(outs), to_features, *sizes)
        to_weight = wide(rows.new_empty(0)).new_empty(outputs, 3, 3, channels)
        outs = product(slopes.mT, inputs.mT)
        sizes = outputs, channels, outs.stride(0)
        call(f"winograd{side}_to_weight", rows, in_memory(outs), to_weight, *sizes)
        to_bias = rows.sum((0, 1, 2), dtype=to_weight.dtype)
        return to_features.permute(0, 3, 1, 2), to_weight.permute(0, 3, 1, 2), to_bias, None, None


def _tiles(features: Tensor, side: int, dilation: int) -> int:
    batch, (height, width) = len(features), features.shape[2:]
    reach = side * dilation
    return batch * dilation**2 * -(-height // reach) * -(-width // reach)


def _planes(like: Tensor, side: int, rows: int, columns: int) -> Tensor:
    """Room for a tile's numbers (T, rows, columns); without gaps in bfloat16, as its products were timed."""
    size = rows * columns
    if like.dtype != torch.bfloat16:
        size = (-(-size * like.itemsize // _PAGE) * _PAGE + _LINE) // like.itemsize
    return like.new_empty((side + 2) ** 2, size)[:, : rows * columns].view(-1, rows, columns)


def by_pixels(map_or_weight: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H, W, C) without gaps in memory."""
    return map_or_weight.permute(0, 2, 3, 1).contiguous()
