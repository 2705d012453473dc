"""DeepLabV3: atrous spatial pyramid pooling, then one 3x3 block."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torchvision.models.segmentation import deeplabv3

from afdcd.config import ModelConfig
from afdcd.models.heads.blocks import check_statistics, conv_norm_relu


class ImagePooling(deeplabv3.ASPPPooling):  # type: ignore[misc]
    """torchvision's image-level branch, spread over the map by expansion instead of a Resize."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h, w), constant over each map."""
        check_statistics(self, x)
        pooled = x.mean((2, 3), keepdim=True)
        for layer in list(self)[1:]:
            pooled = layer(pooled)
        spread = pooled.expand(-1, -1, x.shape[2], x.shape[3])
        # A map by channels among others by pixels would have all of them copied, and slowly.
        by_pixels = x.is_contiguous(memory_format=torch.channels_last)
        return spread.contiguous(memory_format=torch.channels_last) if by_pixels else spread


class ASPP(deeplabv3.ASPP):  # type: ignore[misc]
    """torchvision's ASPP with a dropout of one's own and image pooling that exports without a Resize.

    Source: Chen et al. 2017, "Rethinking Atrous Convolution for Semantic Image Segmentation", figure 5.
    """

    def __init__(self, inputs: int, outputs: int, rates: tuple[int, int, int], dropout: float) -> None:
        super().__init__(inputs, list(rates), outputs)
        self.convs[-1] = ImagePooling(inputs, outputs)
        self.project[-1] = nn.Dropout(dropout)


class DeepLabV3Head(nn.Module):
    """ASPP on the last stage, 3x3 block, dropout; `head_channels` is the width throughout."""

    stage: ClassVar[int] = -1

    def __init__(self, channels: tuple[int, ...], config: ModelConfig) -> None:
        super().__init__()
        width = config.head_channels
        self.aspp = ASPP(channels[-1], width, config.atrous_rates, config.projection_dropout)
        self.block = conv_norm_relu(width, width, 3)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """The classifier's input (B, head_channels, h, w) from the backbone's stages."""
        out: Tensor = self.dropout(self.block(self.aspp(features[-1])))
        return out
