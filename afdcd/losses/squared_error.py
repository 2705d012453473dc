"""The sum of squared differences, of maps in half types without copies in float32."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from afdcd.losses.inputs import full_precision, wide
from afdcd.native.kernels import call, has_kernels

_CHUNK = 8192
"""Numbers whose squares the kernel adds up apart."""


def squared_error(first: Tensor, second: Tensor) -> Tensor:
    """The sum over all elements of (first - second)^2, in float32 or wider.

    Args:
        first: of any shape.
        second: of the same shape; no gradient reaches it.
    """
    if _suits_native(first, second):
        found: Tensor = _Native.apply(first, second)
        return found
    with full_precision(first):
        return F.mse_loss(wide(first), wide(second.detach()), reduction="sum")


def _suits_native(first: Tensor, second: Tensor) -> bool:
    """Maps on a CPU, alike in type and in memory, which is without gaps."""
    known = first.dtype == second.dtype in (torch.float32, torch.float64, torch.bfloat16)
    dense = first.is_contiguous() or first.is_contiguous(memory_format=torch.channels_last)
    alike = first.shape == second.shape and first.stride() == second.stride()
    return first.is_cpu and second.is_cpu and known and dense and alike and has_kernels()


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(first, second)
        sums = wide(first.new_empty(0)).new_empty(-(-first.numel() // _CHUNK))
        call("squared_error", first, first, second, sums, first.numel(), _CHUNK)
        return sums.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        first, second = ctx.saved_tensors
        slopes = torch.empty_like(first)
        call("squared_error_slopes", first, first, second, slopes, first.numel(), float(upstream))
        return slopes, None
