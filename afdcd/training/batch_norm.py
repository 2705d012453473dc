"""Batch normalisation in C for trainings on a CPU: torch's takes much longer for few channels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from afdcd.native.kernels import call, has_kernels

_WIDE = {torch.bfloat16: torch.float32, torch.float32: torch.float32, torch.float64: torch.float64}
"""For each type of a map that of its weights and statistics."""

FEW_CHANNELS = 127
"""From 128 on torch's is no slower."""


@contextmanager
def native_batch_norm(module: nn.Module) -> Iterator[None]:
    """Let every `nn.BatchNorm2d` within a module run in C, where kernels can be built.

    They are of another class meanwhile, with the same weights, buffers and names; what is of a subclass
    already, such as timm's norms with an activation, stays as it is.
    """
    norms = [part for part in module.modules() if type(part) is nn.BatchNorm2d] if has_kernels() else []
    for norm in norms:
        norm.__class__ = NativeBatchNorm2d
    try:
        yield
    finally:
        for norm in norms:
            norm.__class__ = nn.BatchNorm2d


class NativeBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that trains on channels-last maps of a CPU in C; all else is torch's."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to the same, as `nn.BatchNorm2d` but for rounding; without a second derivative."""
        if not self._fits(input):
            return super().forward(input)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        normalised: Tensor = _Native.apply(
            *(input, self.weight, self.bias, self.running_mean, self.running_var),
            *(float(self.momentum or 0), float(self.eps)),
        )
        return normalised

    def _fits(self, x: Tensor) -> bool:
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
            and _WIDE.get(x.dtype) == self.weight.dtype
        )


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        channels = x.shape[1]
        normalised, statistics = torch.empty_like(x), weight.new_empty(2, channels)
        call(
            *("batch_norm", x, x, weight, bias, running_mean, running_var, statistics, normalised),
            *(x.numel() // channels, channels, momentum, eps),
        )
        ctx.save_for_backward(x, weight, statistics)
        return normalised

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, statistics = ctx.saved_tensors
        by_x, by_weight, by_bias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        upstream = upstream.contiguous(memory_format=torch.channels_last)
        call(
            *("batch_norm_back", x, x, upstream, weight, statistics, by_x, by_weight, by_bias),
            *(x.numel() // x.shape[1], x.shape[1]),
        )
        return by_x, by_weight, by_bias, None, None, None, None
