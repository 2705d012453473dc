"""Cross-entropy against labels: the task's own loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from afdcd.losses.inputs import full_precision, wide


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
    """
    with full_precision(logits):
        logits, labels = wide(logits), labels.long()
        if logits.shape[-2:] != labels.shape[-2:]:
            logits = upsampled(logits, (labels.shape[-2], labels.shape[-1]))
        valid = labels != ignore_index
        weights = None if class_weights is None else class_weights.to(logits)
        total = F.cross_entropy(logits, labels, weights, ignore_index=ignore_index, reduction="sum")
        share = valid.to(logits.dtype) if weights is None else weights[labels.where(valid, 0)] * valid
        return total / share.sum().clamp_min(torch.finfo(logits.dtype).tiny)


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
