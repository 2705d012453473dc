"""The MLP head of SegFormer: every stage to one width, brought to the finest stage, fused by a 1x1 block."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from afdcd.config import ModelConfig
from afdcd.models.heads.blocks import conv_norm_relu


class SegFormerHead(nn.Module):
    """Logits at the stride of the first stage, 4; for hierarchical transformers with strides 4, 8, 16, 32.

    `head_channels` is the width throughout. A linear layer on each position is a 1x1 convolution here: the
    same product, and no permutation in the graph.

    Source: Xie et al. 2021, "SegFormer", section 3.2 and equation 4.
    """

    stage: ClassVar[int] = 0

    def __init__(self, channels: tuple[int, ...], config: ModelConfig) -> None:
        super().__init__()
        width = config.head_channels
        self.projections = nn.ModuleList([nn.Conv2d(inputs, width, 1) for inputs in channels])
        self.fuse = conv_norm_relu(width * len(channels), width, 1)
        self.dropout = nn.Dropout2d(config.dropout)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """The classifier's input (B, head_channels, h, w) at the first stage's size, from coarse to fine."""
        size = features[0].shape[2:]
        parts = [project(stage) for project, stage in zip(self.projections, features, strict=True)]
        spread = [F.interpolate(part, size=size, mode="bilinear", align_corners=False) for part in parts[1:]]
        out: Tensor = self.dropout(self.fuse(torch.cat([*reversed(spread), parts[0]], 1)))
        return out
