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
            logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
        valid = labels != ignore_index
        weights = None if class_weights is None else class_weights.to(logits)
        total = F.cross_entropy(logits, labels, weights, ignore_index=ignore_index, reduction="sum")
        share = valid.to(logits.dtype) if weights is None else weights[labels.where(valid, 0)] * valid
        return total / share.sum().clamp_min(torch.finfo(logits.dtype).tiny)
