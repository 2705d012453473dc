"""DeepLabV3: atrous spatial pyramid pooling, then one 3x3 block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from afdcd.config import ModelConfig
from afdcd.models.heads.blocks import check_statistics, conv_norm_relu

PROJECTION_DROPOUT = 0.5
"""After the pyramid's projection, in the paper's code, torchvision and the released networks alike."""


class ImagePooling(nn.Module):
    """The image-level branch: global mean, 1x1, BN, ReLU, spread over the map again."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.block = conv_norm_relu(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h, w), constant over each map."""
        check_statistics(self, x)
        pooled: Tensor = self.block(x.mean((2, 3), keepdim=True))
        # Bilinear upsampling of one value is that value everywhere.
        return pooled.expand(-1, -1, x.shape[2], x.shape[3])


class ASPP(nn.Module):
    """Parallel 1x1, three dilated 3x3 and image pooling, concatenated and projected.

    Source: Chen et al. 2017, "Rethinking Atrous Convolution for Semantic Image Segmentation", figure 5;
    layer for layer as torchvision's.
    """

    def __init__(self, inputs: int, outputs: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                conv_norm_relu(inputs, outputs, 1),
                *(conv_norm_relu(inputs, outputs, 3, rate) for rate in rates),
                ImagePooling(inputs, outputs),
            ]
        )
        self.project = conv_norm_relu(len(self.branches) * outputs, outputs, 1)
        self.dropout = nn.Dropout(PROJECTION_DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h, w)."""
        projected: Tensor = self.dropout(self.project(torch.cat([branch(x) for branch in self.branches], 1)))
        return projected


class DeepLabV3Head(nn.Module):
    """ASPP on the last stage, 3x3 block, dropout; `head_channels` is the width throughout."""

    def __init__(self, channels: tuple[int, ...], config: ModelConfig) -> None:
        super().__init__()
        width = config.head_channels
        self.aspp = ASPP(channels[-1], width, config.atrous_rates)
        self.block = conv_norm_relu(width, width, 3)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """The classifier's input (B, head_channels, h, w) from the backbone's stages."""
        out: Tensor = self.dropout(self.block(self.aspp(features[-1])))
        return out
