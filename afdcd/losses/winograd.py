"""A 3x3 convolution by Winograd's minimal filtering, F(2x2, 3x3), forward and backward.

Four outputs of a 2x2 tile take 16 products instead of 36: Y = A'[(G g G') * (B' d B)]A for a tile d of 4x4
inputs (Lavin and Gray, CVPR 2016, arXiv 1509.09308). Input and weight gradients are its transposes, so they
shrink by the same 2.25. Equal to the convolution but for rounding, which is a little coarser.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from afdcd.losses.product import product

# Row i of B' is +1 at the first place and the sign at the second. The last is negated here and in A'.
_TAKES = ((0, 2, -1), (1, 2, 1), (2, 1, -1), (3, 1, -1))
# Column i of A': what product i adds to the tile's first and second output.
_GIVES = ((1, 0), (1, 1), (1, -1), (0, 1))
_FILTER = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


def winograd(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`conv2d(features, weight, bias, padding=1)`; second derivatives are refused.

    Args:
        features: (B, C, H, W).
        weight: (O, C, 3, 3).
        bias: (O,).

    Returns:
        (B, O, H, W), channels last in memory.
    """
    found: Tensor = _Winograd.apply(features, weight, bias)
    return found


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(features, weight)
        batch, channels, height, width = features.shape
        padded = _padded(features)
        down, across, outputs = (height + 1) // 2, (width + 1) // 2, len(weight)
        taps = _taps(weight)
        found = bias.expand(batch, down, 2, across, 2, outputs).clone()
        for row in range(4):
            lines = _take(padded, 1, row)
            filters = _filters(taps, row)
            tiles = torch.zeros_like(found[:, :, 0])
            for column in range(4):
                inputs = _take(lines, 2, column).view(-1, channels)
                outs = product(inputs, filters[column].view(outputs, channels))
                _give(tiles, 3, column, outs.view(batch, down, across, outputs))
            _give(found, 2, row, tiles)
        whole = found.view(batch, 2 * down, 2 * across, outputs)[:, :height, :width]
        return whole.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        features, weight = ctx.saved_tensors
        batch, channels, height, width = features.shape
        down, across, outputs = (height + 1) // 2, (width + 1) // 2, len(weight)
        whole = F.pad(upstream.permute(0, 2, 3, 1), (0, 0, 0, 2 * across - width, 0, 2 * down - height))
        given = whole.reshape(batch, down, 2, across, 2, outputs)
        padded, taps = _padded(features), _taps(weight)
        to_padded, to_taps = torch.zeros_like(padded), torch.zeros_like(taps)
        for row in range(4):
            lines, filters = _take(padded, 1, row), _filters(taps, row)
            to_lines, to_filters = torch.zeros_like(lines), torch.empty_like(filters)
            rows = _given(given, 2, row)
            for column in range(4):
                slopes = _given(rows, 3, column).reshape(-1, outputs)
                inputs = _take(lines, 2, column).view(-1, channels)
                to_filters[column] = product(slopes.T, inputs.T).view(-1)
                to_inputs = product(slopes, filters[column].view(outputs, channels).T)
                _untake(to_lines, 2, column, to_inputs.view(batch, down, across, channels))
            _untake(to_padded, 1, row, to_lines)
            to_taps.addmm_(_matrix(row, taps).T, to_filters)
        to_features = to_padded[:, 1 : height + 1, 1 : width + 1].permute(0, 3, 1, 2)
        to_weight = to_taps.view(3, 3, outputs, channels).permute(2, 3, 0, 1)
        return to_features, to_weight, upstream.sum((0, 2, 3))


def _padded(features: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H', W', C): one cell of zeros around, and one more below and right of odd sizes."""
    height, width = features.shape[-2:]
    return F.pad(features.permute(0, 2, 3, 1), (0, 0, 1, 1 + width % 2, 1, 1 + height % 2))


def _taps(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) -> (9, O C)."""
    return weight.permute(2, 3, 0, 1).reshape(9, -1)


def _matrix(row: int, like: Tensor) -> Tensor:
    """(4, 9): from the taps of a filter to row `row` of the 4x4 numbers G g G'."""
    side = like.new_tensor(_FILTER)
    return torch.kron(side[row : row + 1], side)


def _filters(taps: Tensor, row: int) -> Tensor:
    """(9, O C) -> (4, O C)."""
    return _matrix(row, taps) @ taps


def _every_second(padded: Tensor, axis: int, start: int) -> Tensor:
    """The cells of all tiles at one of their four places along an axis of 2 T + 2 cells: T cells."""
    end = start + padded.shape[axis] - 3
    return padded[(slice(None),) * axis + (slice(start, end, 2),)]


def _take(padded: Tensor, axis: int, number: int) -> Tensor:
    """Number `number` of B' d along an axis."""
    first, second, sign = _TAKES[number]
    return torch.add(
        _every_second(padded, axis, first), _every_second(padded, axis, second), alpha=sign
    ).contiguous()


def _untake(padded: Tensor, axis: int, number: int, slopes: Tensor) -> None:
    """The transpose of `_take`, added."""
    first, second, sign = _TAKES[number]
    _every_second(padded, axis, first).add_(slopes)
    _every_second(padded, axis, second).add_(slopes, alpha=sign)


def _give(found: Tensor, axis: int, number: int, outs: Tensor) -> None:
    """Add product `number` to the tiles' two outputs along an axis of size two."""
    for place, sign in enumerate(_GIVES[number]):
        if sign:
            found.select(axis, place).add_(outs, alpha=sign)


def _given(slopes: Tensor, axis: int, number: int) -> Tensor:
    """The transpose of `_give`: the slope of product `number`."""
    first, second = slopes.unbind(axis)
    signs = _GIVES[number]
    if not all(signs):
        return first if signs[0] else second
    return torch.add(first, second, alpha=signs[1])
