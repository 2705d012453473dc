"""Batch normalisation in C for trainings on a CPU: torch's takes much longer for few channels."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from afdcd.native.kernels import call

_WIDE = {torch.bfloat16: torch.float32, torch.float32: torch.float32, torch.float64: torch.float64}
"""For each type of a map that of its weights and statistics."""

FEW_CHANNELS = 127
"""From 128 on torch's is no slower."""


class NativeBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that trains on channels-last maps of a CPU in C; all else is torch's."""

    rectifies: ClassVar[bool] = False

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to the same, as `nn.BatchNorm2d` but for rounding; without a second derivative."""
        weight = self.weight
        if not self._fits(input, weight):
            return super().forward(input)
        normalised: Tensor = _Native.apply(input, weight, self.bias, self)
        return normalised

    def _fits(self, x: Tensor, weight: Tensor) -> bool:
        return (
            self.training
            and self.affine
            and self.track_running_stats
            and self.momentum is not None
            and x.is_cpu
            and x.dim() == 4
            and x.is_contiguous(memory_format=torch.channels_last)
            and x.shape[1] == self.num_features <= FEW_CHANNELS
            and x.numel() > self.num_features
            and _WIDE.get(x.dtype) == weight.dtype
        )


class RectifyingBatchNorm2d(NativeBatchNorm2d):
    """One whose output in C is rectified, as the next that is done with it is a ReLU; torch's is not."""

    rectifies: ClassVar[bool] = True


class RectifiedReLU(nn.ReLU):
    """A ReLU that has nothing to do on what a norm has just rectified."""

    def forward(self, input: Tensor) -> Tensor:
        """The same map, without negative values."""
        return input if getattr(input.grad_fn, "rectified", False) else super().forward(input)


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: NativeBatchNorm2d) -> Tensor:
        channels = x.shape[1]
        y, statistics = torch.empty_like(x), weight.new_empty(2, channels)
        call(
            *("batch_norm", x, x, weight, bias, norm.running_mean, norm.running_var),
            *(norm.num_batches_tracked, statistics, y, x.numel() // channels, channels),
            *(norm.rectifies, float(norm.momentum or 0), float(norm.eps)),
        )
        ctx.rectified = norm.rectifies
        ctx.save_for_backward(x, weight, statistics, y if norm.rectifies else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, statistics, y = ctx.saved_tensors
        by_x, by_weight, by_bias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        upstream = upstream.contiguous(memory_format=torch.channels_last)
        call(
            *("batch_norm_back", x, x, y, upstream, weight, statistics, by_x, by_weight, by_bias),
            *(x.numel() // x.shape[1], x.shape[1]),
        )
        return by_x, by_weight, by_bias, None
