"""Dropout in C for trainings on a CPU: torch draws one number after the other, on one thread."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from afdcd.native.kernels import call

_KINDS = (torch.bfloat16, torch.float32, torch.float64)


class NativeDropout(nn.Dropout):
    """Dropout that trains in C on a CPU; all else is torch's.

    One draw from torch's generator decides which values fall, so that a seed repeats it; torch drops others.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The same shape, with a share `p` of values at 0 and the others times 1 / (1 - p)."""
        if not self._fits(input):
            return super().forward(input)
        found: Tensor = _Native.apply(input, self.p)
        return found

    def _fits(self, x: Tensor) -> bool:
        dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
        return (
            self.training and 0 < self.p < 1 and not self.inplace and x.is_cpu and x.dtype in _KINDS and dense
        )


class _Native(torch.autograd.Function):
    """Nothing is kept but the seed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        ctx.layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        seed = int(torch.empty((), dtype=torch.int64).random_())
        ctx.drawn = (seed, round(p * 2**32), 1 / (1 - p))
        return _dropped(x, *ctx.drawn)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return _dropped(upstream.contiguous(memory_format=ctx.layout), *ctx.drawn), None


def _dropped(values: Tensor, seed: int, fallen: int, scale: float) -> Tensor:
    found = torch.empty_like(values)
    call("dropout", values, values, found, values.numel(), seed, fallen, scale)
    return found
