"""Cross-entropy against labels: the task's own loss."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from afdcd.losses.inputs import full_precision, scaled, wide
from afdcd.native.kernels import call, has_kernels


def cross_entropy(
    logits: Tensor, labels: Tensor, *, ignore_index: int, class_weights: Tensor | None
) -> Tensor:
    """Mean cross-entropy over the labelled pixels, weighted by class as torch's weighted mean is.

    Logits are upsampled bilinearly (align_corners=False) to the labels' size. A batch without a
    labelled pixel costs zero and still has a graph, so that every rank can run its backward pass.

    Args:
        logits: (B, K, h, w), at the network's own stride.
        labels: (B, H, W) integers: a class in 0..K-1 or `ignore_index`.
        ignore_index: the label of pixels that take no part.
        class_weights: (K,) or None for equal weights.

    Raises:
        ValueError: the shapes do not fit together.
        IndexError: a label is neither a class nor `ignore_index`.
    """
    _require_shapes(logits, labels, class_weights)
    with full_precision(logits):
        logits, labels = wide(logits), labels.long()
        weights = None if class_weights is None else class_weights.to(logits)
        if logits.device.type == "cpu" and has_kernels():
            total, mass = _Native.apply(logits, labels, weights, ignore_index)
        else:
            total, mass = _by_operators(logits, labels, weights, ignore_index)
        loss: Tensor = total / mass.clamp_min(torch.finfo(logits.dtype).tiny)
        return loss


def _require_shapes(logits: Tensor, labels: Tensor, class_weights: Tensor | None) -> None:
    """Refuse what the kernel would read beyond its end."""
    if logits.dim() != 4 or labels.dim() != 3 or len(logits) != len(labels):
        raise ValueError(
            f"cross-entropy of logits {tuple(logits.shape)} against labels {tuple(labels.shape)}; "
            "they must be (B, K, h, w) and (B, H, W)"
        )
    if class_weights is not None and class_weights.shape != logits.shape[1:2]:
        raise ValueError(
            f"cross-entropy: {tuple(class_weights.shape)} class weights for {logits.shape[1]} classes"
        )


def _by_operators(
    logits: Tensor, labels: Tensor, weights: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """The weighted sum over labelled pixels, and the sum of their weights."""
    if logits.shape[-2:] != labels.shape[-2:]:
        logits = upsampled(logits, (labels.shape[-2], labels.shape[-1]))
    valid = labels != ignore_index
    total = F.cross_entropy(logits, labels, weights, ignore_index=ignore_index, reduction="sum")
    share = valid.to(logits.dtype) if weights is None else weights[labels.where(valid, 0)] * valid
    return total, share.sum()


def upsampled(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """`F.interpolate(logits, size, mode="bilinear", align_corners=False)` as two matrix products.

    They take half the time on a CPU, backward above all, and add in the same order on every run on a GPU,
    which the operator's backward pass does not.

    Args:
        logits: (B, K, h, w), float32 or wider.
        size: (H, W).

    Returns:
        (B, K, H, W); equal but for rounding.
    """
    (down, across), (height, width) = logits.shape[-2:], size
    return _weights(down, height, logits).mT @ (logits @ _weights(across, width, logits))


def _weights(cells: int, pixels: int, like: Tensor) -> Tensor:
    """(cells, pixels): what each cell of an axis counts in each of the pixels that it is spread over."""
    one = torch.eye(cells, dtype=like.dtype, device=like.device)[None]
    return F.interpolate(one, pixels, mode="linear", align_corners=False)[0]


class _Native(torch.autograd.Function):
    """The same sums in C on a CPU: upsampled logits are never in memory, gradients are formed at once."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, weights: Tensor | None, ignore_index: int
    ) -> tuple[Tensor, Tensor]:
        logits, labels = logits.contiguous(), labels.contiguous()
        (batch, classes, *cells), pixels = logits.shape, labels.shape[1:]
        losses, masses = logits.new_empty(2, batch, pixels[0])
        slopes = torch.zeros_like(logits) if ctx.needs_input_grad[0] else None
        (lines, down), (columns, across) = map(_taps, cells, pixels, 2 * [logits.dtype])
        call(
            *("cross_entropy", logits, logits, labels, weights, lines, down, columns, across),
            *(losses, masses, slopes, batch, classes, *cells, *pixels, ignore_index),
        )
        ctx.save_for_backward(slopes)
        mass = masses.sum()
        ctx.mark_non_differentiable(mass)
        return losses.sum(), mass

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return scaled(slopes, upstream), None, None, None


@cache
def _taps(cells: int, pixels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """For each pixel of an axis the cell before it, and how far it lies on the way to the next one."""
    places = ((torch.arange(pixels, dtype=torch.float64) + 0.5) * cells / pixels - 0.5).clamp_min(0)
    before = places.long().clamp_max(cells - 1)
    return before, (places - before).to(dtype)
