"""Masked generation of the teacher's features from the student's (MGD, arXiv 2205.01529; Af-DCD 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afdcd.losses.inputs import full_precision
from afdcd.losses.randomness import uniform


def random_keep_mask(keys: Tensor, features: Tensor, mask_ratio: float) -> Tensor:
    """False in a share `mask_ratio` of the cells, a function of each sample's key and the map's size alone.

    Args:
        keys: (B,) int64.
        features: the map to mask, (B, C, h, w).
        mask_ratio: expected share of dropped cells.

    Returns:
        (B, 1, h, w) bool.
    """
    height, width = features.shape[-2:]
    return (uniform(keys, height * width) >= mask_ratio).view(-1, 1, height, width)


class MaskedGenerator(nn.Module):
    """Guesses the teacher's map from the student's map with most cells dropped.

    Align (1x1 convolution, identity for equal channels), drop, then two 3x3 convolutions with a ReLU
    between; kept cells are not rescaled. The release has no identity and crashes for equal channels.
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        equal = student_channels == teacher_channels
        self.align = None if equal else nn.Conv2d(student_channels, teacher_channels, 1)
        self.first = nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1)
        self.second = nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1)

    def forward(self, features: Tensor, keep: Tensor) -> Tensor:
        """The guess (B, C_T, h, w).

        Args:
            features: the student's map (B, C_S, h, w).
            keep: (B, 1, h, w) bool, False where a cell is dropped.
        """
        if self.align is None:
            hidden = self.first(features * keep)
        elif features.shape[1] < self.first.in_channels:
            hidden = self._folded(self.align, features, keep)
        else:
            hidden = self.first(self.align(features) * keep)
        guess: Tensor = self.second(F.relu(hidden))
        return guess

    def _folded(self, align: nn.Conv2d, features: Tensor, keep: Tensor) -> Tensor:
        """`first(keep * align(features))` at the student's width: a quarter of the work for ResNet-18.

        The mask is one value a cell and align works cell by cell, so align goes into the weights of the
        3x3: first(keep * (A x + a)) = conv(keep * x; W A) + conv(keep; W a) + b. Exact but for rounding.
        """
        assert align.bias is not None
        outputs, inner = self.first.weight.shape[:2]
        with full_precision(features):
            table = torch.cat([align.weight.flatten(1), align.bias[:, None]], 1)
            taps = self.first.weight.permute(0, 2, 3, 1).reshape(-1, inner) @ table
            weight = taps.view(outputs, 3, 3, -1).permute(0, 3, 1, 2)
        mask = keep.to(features.dtype)
        return F.conv2d(torch.cat([features * mask, mask], 1), weight, self.first.bias, padding=1)
