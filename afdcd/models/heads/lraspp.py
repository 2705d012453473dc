"""LR-ASPP, the light head of MobileNetV3: a gated 1x1 block on the last stage beside a fine stage."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from afdcd.config import ModelConfig
from afdcd.errors import UserError
from afdcd.models.heads.blocks import conv_norm_relu


class LRASPPHead(nn.Module):
    """Logits at the stride of the second stage, 8, whatever the stride of the last one.

    The paper adds two classifiers, on the fine stage and on the spread block; a single one on both side by
    side is the same sum. So the classifier's input is the fine stage followed by the block, `head_channels`
    together: the block has what the fine stage leaves (128 of 168 on MobileNetV3-Large, as torchvision's).

    Source: Howard et al. 2019, "Searching for MobileNetV3", section 6.4, figure 10; gate over the whole map.
    """

    stage: ClassVar[int] = 1

    def __init__(self, channels: tuple[int, ...], config: ModelConfig) -> None:
        super().__init__()
        width = config.head_channels - channels[self.stage]
        if width < 1:
            raise UserError(
                f"head lraspp joins the {channels[self.stage]} channels of the stage at stride 8 with a "
                f"block of its own: head_channels {config.head_channels} leaves it none; "
                f"take {channels[self.stage] + 128}"
            )
        self.block = conv_norm_relu(channels[-1], width, 1)
        self.gate = nn.Sequential(nn.Conv2d(channels[-1], width, 1, bias=False), nn.Sigmoid())
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """The classifier's input (B, head_channels, h, w) at the second stage's size."""
        fine, last = features[self.stage], features[-1]
        gated = self.block(last) * self.gate(last.mean((2, 3), keepdim=True))
        spread = F.interpolate(gated, size=fine.shape[2:], mode="bilinear", align_corners=False)
        out: Tensor = self.dropout(torch.cat([fine, spread], 1))
        return out
