"""3x3 convolutions with few channels in C, tap by tap: torch's take long for their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from afdcd.losses.winograd_native import by_pixels
from afdcd.native.kernels import call


def direct_convolution(features: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    """`conv2d(features, weight, padding=dilation, dilation=dilation)` where there are kernels.

    Second derivatives are refused.

    Args:
        features: (B, C, H, W), float32 or float64.
        weight: (O, C, 3, 3), of the same type.
        dilation: from cell to cell that a filter reads.

    Returns:
        (B, O, H, W), channels last in memory.
    """
    found: Tensor = _Direct.apply(features, weight, dilation)
    return found


class _Direct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, dilation: int) -> Tensor:
        rows, taps = by_pixels(features), by_pixels(weight)
        ctx.save_for_backward(rows, taps)
        ctx.dilation = dilation
        found = rows.new_empty(*rows.shape[:3], len(taps))
        call("direct", rows, rows, taps, found, *rows.shape, len(taps), dilation, 0)
        return found.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor, None]:
        rows, taps = ctx.saved_tensors
        slopes, to_taps, to_rows = by_pixels(upstream), torch.empty_like(taps), None
        call("direct_to_weight", rows, rows, slopes, to_taps, *rows.shape, len(taps), ctx.dilation)
        if ctx.needs_input_grad[0]:
            to_rows = torch.empty_like(rows)
            call("direct", rows, slopes, taps, to_rows, *slopes.shape, rows.shape[3], ctx.dilation, 1)
            to_rows = to_rows.permute(0, 3, 1, 2)
        return to_rows, to_taps.permute(0, 3, 1, 2), None
