"""A 3x3 convolution of a map of which only some cells are not zero: work in proportion to these alone.

Each kept cell gives to its nine neighbours. A tap is a matrix product of the kept rows, added into the map by
place; within a tap no two rows meet, so sums have one order and results are deterministic.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from afdcd.losses.inputs import wide
from afdcd.losses.product import product


def gathered(rows: Tensor, keep: Tensor, taps: Tensor, offsets: Tensor | None, bias: Tensor) -> Tensor:
    """`conv2d(map, weight, bias, padding=1)` of a map that holds `rows` at kept cells and zeros elsewhere.

    Half types are added up in float32. Second derivatives are refused.

    Args:
        rows: (N, C), the kept cells in the order of `keep.nonzero()`.
        keep: (B, H, W) bool with N kept cells.
        taps: (9, O, C), the weight by place, line by line.
        offsets: (9, O), added to what a kept cell gives by each tap; None adds nothing.
        bias: (O,).

    Returns:
        (B, O, H, W), channels last in memory.
    """
    found: Tensor = _Gathered.apply(rows, keep, taps, offsets, bias)
    return found


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, keep: Tensor, taps: Tensor, offsets: Tensor | None, bias: Tensor
    ) -> Tensor:
        batch, height, width = keep.shape
        outputs = taps.shape[1]
        found = wide(bias).expand(batch, height + 2, width + 2, outputs).contiguous()
        cells, places = found.view(-1, outputs), _places(keep)
        for tap, place in enumerate(places):
            given = wide(product(rows, taps[tap]))
            if offsets is not None:
                given += offsets[tap]
            cells.index_add_(0, place, given)
        ctx.save_for_backward(rows, keep, taps)
        ctx.has_offsets = offsets is not None
        return found[:, 1:-1, 1:-1].permute(0, 3, 1, 2).to(rows.dtype)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, upstream: Tensor
    ) -> tuple[Tensor | None, None, Tensor | None, Tensor | None, Tensor | None]:
        rows, keep, taps = ctx.saved_tensors
        # The border is cut off, so nothing comes back from it.
        slopes = F.pad(upstream.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        cells = slopes.reshape(-1, slopes.shape[-1])
        to_rows, to_taps = wide(torch.zeros_like(rows)), torch.empty_like(taps)
        to_offsets = taps.new_empty(taps.shape[:2]) if ctx.has_offsets else None
        for tap, place in enumerate(_places(keep)):
            given = cells.index_select(0, place)
            to_taps[tap] = product(given.T, rows.T)
            to_rows += product(given, taps[tap].T)
            if to_offsets is not None:
                to_offsets[tap] = given.sum(0)
        return to_rows.to(rows.dtype), None, to_taps, to_offsets, upstream.sum((0, 2, 3))


def _places(keep: Tensor) -> list[Tensor]:
    """For each tap the cells that the kept ones give to, numbered in the map with a border of one cell.

    Tap (y, x) of a convolution reads the cell at (y - 1, x - 1) from its own, so it gives the other way.
    """
    wide = keep.shape[2] + 2
    bordered = F.pad(keep, (1, 1, 1, 1))
    centres = bordered.flatten().nonzero().squeeze(1)
    return [centres - (y * wide + x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
