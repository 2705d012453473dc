"""PSPNet's pyramid pooling, with an adaptive pooling that exports exactly at every size."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from afdcd.config import ModelConfig
from afdcd.models.heads.blocks import check_statistics, conv_norm_relu

BINS = (1, 2, 3, 6)


def pooling_matrix(size: int, bins: int, like: Tensor) -> Tensor:
    """(size, bins): column i averages the cells floor(i size / bins) .. ceil((i + 1) size / bins) - 1."""
    cell = torch.arange(size, device=like.device)[:, None]
    column = torch.arange(bins, device=like.device)
    start = (column * size) // bins
    end = ((column + 1) * size + bins - 1) // bins
    inside = ((cell >= start) & (cell < end)).to(like.dtype)
    return inside / (end - start).to(like.dtype)


def adaptive_average(x: Tensor, bins: int) -> Tensor:
    """`adaptive_avg_pool2d(x, bins)` as two matrix products, or one mean.

    The operator itself becomes hundreds of gathers in ONNX, wrong at other sizes than the traced one; this
    form holds for dynamic sizes too.

    Args:
        x: (B, C, h, w).
        bins: cells along each side of the result.

    Returns:
        (B, C, bins, bins).
    """
    if bins == 1:
        return x.mean((2, 3), keepdim=True)
    columns = x @ pooling_matrix(x.shape[3], bins, x)
    return (columns.transpose(2, 3) @ pooling_matrix(x.shape[2], bins, x)).transpose(2, 3)


class PSPHead(nn.Module):
    """Pyramid pooling of the last stage over 1, 2, 3 and 6 bins, a 3x3 block to `head_channels`, dropout.

    Source: Zhao et al. 2017, "Pyramid Scene Parsing Network", figure 3; each level has C / 4 channels.
    """

    stage: ClassVar[int] = -1

    def __init__(self, channels: tuple[int, ...], config: ModelConfig) -> None:
        super().__init__()
        inputs = channels[-1]
        width = max(1, inputs // len(BINS))
        self.levels = nn.ModuleList([conv_norm_relu(inputs, width, 1) for _ in BINS])
        self.block = conv_norm_relu(inputs + width * len(BINS), config.head_channels, 3)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """The classifier's input (B, head_channels, h, w) from the backbone's stages."""
        x = features[-1]
        check_statistics(self, x)
        parts = [x]
        for bins, level in zip(BINS, self.levels, strict=True):
            pooled = level(adaptive_average(x, bins))
            parts.append(F.interpolate(pooled, size=x.shape[2:], mode="bilinear", align_corners=False))
        out: Tensor = self.dropout(self.block(torch.cat(parts, 1)))
        return out
