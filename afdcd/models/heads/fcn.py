"""The head of FCN-8s' successors: one 3x3 block on the last stage, dropout."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from afdcd.config import ModelConfig
from afdcd.models.heads.blocks import conv_norm_relu


class FCNTopHead(nn.Module):
    """A 3x3 convolution to `head_channels`, batch normalisation, ReLU, dropout; torchvision's FCNHead.

    Source: Long et al. 2015, "Fully Convolutional Networks", in the dilated form of torchvision.
    """

    stage: ClassVar[int] = -1

    def __init__(self, channels: tuple[int, ...], config: ModelConfig) -> None:
        super().__init__()
        self.block = conv_norm_relu(channels[-1], config.head_channels, 3)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """The classifier's input (B, head_channels, h, w) from the backbone's stages."""
        out: Tensor = self.dropout(self.block(features[-1]))
        return out
