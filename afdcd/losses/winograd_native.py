"""Winograd's convolution with its transforms in C on a CPU: all 16 products of a tile at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from afdcd.losses.inputs import full_precision, wide
from afdcd.native.kernels import call


def native_winograd(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`conv2d(features, weight, bias, padding=1)` where there are kernels; second derivatives are refused.

    A map in bfloat16 is multiplied in it, with a weight in float32: the transforms add in float32 and
    round once.

    Args:
        features: (B, C, H, W), float32, float64 or bfloat16.
        weight: (O, C, 3, 3).
        bias: (O,).

    Returns:
        (B, O, H, W) in the map's precision, channels last in memory.
    """
    kind = wide(features.new_empty(0)).dtype
    with full_precision(features):
        found: Tensor = _Native.apply(features, weight.to(kind), bias.to(kind))
    return found


class _Native(torch.autograd.Function):
    """What is kept for the backward pass is four times the map; it comes next, and needs as much anyway."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows, taps = _rows(features), _rows(weight)
        batch, height, width, channels = ctx.shape = rows.shape
        outputs = len(weight)
        tiles = batch * ((height + 1) // 2) * ((width + 1) // 2)
        inputs = rows.new_empty(16, tiles, channels)
        filters = rows.new_empty(16, outputs, channels)
        call("winograd_inputs", rows, rows, inputs, *rows.shape)
        call("winograd_filters", rows, taps, filters, outputs, channels)
        found = rows.new_empty(batch, height, width, outputs)
        call("winograd_outputs", rows, inputs @ filters.mT, bias.contiguous(), found, *found.shape)
        ctx.save_for_backward(inputs, filters)
        return found.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inputs, filters = ctx.saved_tensors
        rows = _rows(upstream)
        outputs, channels = filters.shape[1:]
        slopes = rows.new_empty(16, inputs.shape[1], outputs)
        call("winograd_slopes", rows, rows, slopes, *rows.shape)
        to_features = rows.new_empty(ctx.shape)
        call("winograd_to_inputs", rows, slopes @ filters, to_features, *ctx.shape)
        to_weight = wide(rows.new_empty(0)).new_empty(outputs, 3, 3, channels)
        call("winograd_to_weight", rows, slopes.mT @ inputs, to_weight, outputs, channels)
        to_bias = rows.sum((0, 1, 2), dtype=to_weight.dtype)
        return to_features.permute(0, 3, 1, 2), to_weight.permute(0, 3, 1, 2), to_bias


def _rows(map_or_weight: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H, W, C) without gaps in memory."""
    return map_or_weight.permute(0, 2, 3, 1).contiguous()
