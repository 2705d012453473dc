"""SKD's opponent: tells a teacher's logits from a student's (after SAGAN, Zhang et al., arXiv 1805.08318)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

STEPS = 4
"""Halvings of the map, and the side of the last window: 64x64 logits give one score."""


class SelfAttention(nn.Module):
    """Every position looks at all others; a learned share, 0 at first, is added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 8)
        self.query = nn.Conv2d(channels, inner, 1)
        self.key = nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.share = nn.Parameter(self.value.weight.new_zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        query, key, value = (layer(features).flatten(2) for layer in (self.query, self.key, self.value))
        looked = value @ (query.mT @ key).softmax(2).mT
        mixed: Tensor = features + self.share * looked.view_as(features)
        return mixed


class Discriminator(nn.Module):
    """Scores of logit maps, high for the teacher's.

    Four spectrally normalised 4x4 convolutions of stride 2, self-attention after the third and the fourth,
    and a last 4x4 window. Maps that the windows do not fit are padded with zeros at the bottom and right,
    so that any size has a score.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        """Build for logits of `num_classes` channels; `width` is the first convolution's."""
        super().__init__()
        widths = [num_classes, *(width * 2**step for step in range(STEPS))]
        self.halvings = nn.ModuleList(
            spectral_norm(nn.Conv2d(widths[step], widths[step + 1], 4, stride=2, padding=1))
            for step in range(STEPS)
        )
        self.attentions = nn.ModuleList(SelfAttention(channels) for channels in widths[-2:])
        self.score = nn.Conv2d(widths[-1], 1, 4)

    def forward(self, logits: Tensor) -> Tensor:
        """(B, K, H, W) to scores (B, 1, h, w)."""
        features = logits
        for step, halving in enumerate(self.halvings):
            height, width = features.shape[-2:]
            features = F.leaky_relu(halving(F.pad(features, (0, width % 2, 0, height % 2))), 0.1)
            if step >= STEPS - 2:
                features = self.attentions[step - STEPS + 2](features)
        short = [max(0, STEPS - cells) for cells in features.shape[-2:]]
        scores: Tensor = self.score(F.pad(features, (0, short[1], 0, short[0])))
        return scores
