"""A 3x3 convolution of a map of which only some cells are not zero: work in proportion to these alone.

Each kept cell gives to its nine neighbours. A tap is a matrix product of the kept rows, added into the map by
place; within a tap no two rows meet, so sums have one order and results are deterministic. On a CPU all taps
are one product where they are small, and a kernel adds up what each cell gets, in the order of taps.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from afdcd.losses.inputs import wide
from afdcd.losses.product import product
from afdcd.native.kernels import call, has_kernels

_AT_ONCE = 2**25
"""All taps are one product up to so many bytes of weights and results."""


def gathered(rows: Tensor, keep: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    """`conv2d(map, weight, bias, padding=1)` of a map that holds `rows` at kept cells and zeros elsewhere.

    Half types are added up in float32. Second derivatives are refused.

    Args:
        rows: (N, C), the kept cells in the order of `keep.nonzero()`; products are made in their precision.
        keep: (B, H, W) bool with N kept cells.
        taps: (9, O, C), the weight by place, line by line; or (9, O, C + 1) for a map with one more channel,
            which is 1 at kept cells.
        bias: (O,).

    Returns:
        (B, O, H, W) in the precision of `rows`, channels last in memory.
    """
    form = _Native if _suits_native(rows, taps) else _ByTap
    found: Tensor = form.apply(rows, keep, taps, bias)
    return found


def _suits_native(rows: Tensor, taps: Tensor) -> bool:
    known = rows.is_cpu and rows.dtype in (torch.float32, torch.float64, torch.bfloat16)
    numbers = taps.shape[0] * taps.shape[1] * (len(rows) + rows.shape[1])
    return known and numbers * rows.element_size() <= _AT_ONCE and has_kernels()


class _Native(torch.autograd.Function):
    """All taps are one product, whose parts a kernel adds up by cell."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, keep: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
        weight = taps[..., : rows.shape[1]].to(rows.dtype).flatten(0, 1)
        kind, offsets = wide(rows.new_empty(0)).dtype, None
        if taps.shape[2] > rows.shape[1]:
            offsets = taps[..., -1].to(kind).contiguous()
        places = keep.flatten().nonzero()
        found = rows.new_empty(*keep.shape, len(bias))
        parts, added = product(rows, weight), bias.to(kind).contiguous()
        call("gathered_sums", rows, parts, places, offsets, added, found, len(rows), *found.shape)
        ctx.save_for_backward(rows, places, weight, taps, bias)
        return found.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        rows, places, weight, taps, bias = ctx.saved_tensors
        slopes = upstream.permute(0, 2, 3, 1).contiguous()
        parts = rows.new_empty(len(rows), len(weight))
        call("gathered_slopes", rows, slopes, places, parts, len(rows), *slopes.shape[1:])
        to_taps = torch.empty_like(taps)
        to_taps[..., : rows.shape[1]] = product(parts.T, rows.T).view(*taps.shape[:2], -1)
        if taps.shape[2] > rows.shape[1]:
            to_taps[..., -1] = parts.sum(0).view(taps.shape[:2])
        return product(parts, weight.T), None, to_taps, slopes.sum((0, 1, 2)).to(bias.dtype)


class _ByTap(torch.autograd.Function):
    """A product a tap, added into a map with a border of one cell."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, keep: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
        batch, height, width = keep.shape
        found = wide(bias).expand(batch, height + 2, width + 2, len(bias)).contiguous()
        cells = found.view(-1, len(bias))
        for tap, place in zip(taps, _places(keep), strict=True):
            given = wide(product(rows, tap[:, : rows.shape[1]].to(rows.dtype)))
            if tap.shape[1] > rows.shape[1]:
                given += tap[:, -1]
            cells.index_add_(0, place, given)
        ctx.save_for_backward(rows, keep, taps, bias)
        return found[:, 1:-1, 1:-1].permute(0, 3, 1, 2).to(rows.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        rows, keep, taps, bias = ctx.saved_tensors
        # The border is cut off, so nothing comes back from it.
        slopes = F.pad(upstream.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        cells = slopes.reshape(-1, slopes.shape[-1])
        to_rows, to_taps = wide(torch.zeros_like(rows)), torch.empty_like(taps)
        for tap, to_tap, place in zip(taps, to_taps, _places(keep), strict=True):
            given = cells.index_select(0, place)
            to_tap[:, : rows.shape[1]] = product(given.T, rows.T)
            to_rows += product(given, tap[:, : rows.shape[1]].to(rows.dtype).T)
            if tap.shape[1] > rows.shape[1]:
                to_tap[:, -1] = given.sum(0)
        return to_rows.to(rows.dtype), None, to_taps, upstream.sum((0, 2, 3)).to(bias.dtype)


def _places(keep: Tensor) -> list[Tensor]:
    """For each tap the cells that the kept ones give to, numbered in the map with a border of one cell.

    Tap (y, x) of a convolution reads the cell at (y - 1, x - 1) from its own, so it gives the other way.
    """
    wide = keep.shape[2] + 2
    bordered = F.pad(keep, (1, 1, 1, 1))
    centres = bordered.flatten().nonzero().squeeze(1)
    return [centres - (y * wide + x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
