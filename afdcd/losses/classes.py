"""Class statistics on a feature map's own grid: labels by nearest neighbour, means by image and class."""

from __future__ import annotations

import torch
from torch import Tensor

LABELS = 256
"""Labels are bytes in the data, so a table of this many rows serves any dataset without asking the device."""


def labels_on_grid(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (B, H, W) at (h, w) places: row floor(i H / h), column floor(j W / w), as the releases do."""
    rows, columns = (
        torch.arange(cells, device=labels.device) * pixels // cells
        for cells, pixels in zip(size, labels.shape[-2:], strict=True)
    )
    return labels[:, rows[:, None], columns]


def memberships(labels: Tensor, ignore_index: int, dtype: torch.dtype) -> Tensor:
    """(B, h, w) integers to (B, 256, h w): 1 where a cell is of a class, nowhere for ignored cells.

    Products with it are sums by class, and are the same on every run; a scatter on a GPU is not.
    """
    flat = labels.flatten(1)[:, None]
    ids = torch.arange(LABELS, device=labels.device)[:, None]
    return ((flat == ids) & (flat != ignore_index)).to(dtype)


def class_means(features: Tensor, members: Tensor) -> Tensor:
    """Mean vector of each class in each image; zero for absent ones.

    Args:
        features: (B, C, h, w).
        members: (B, 256, h w) from `memberships`, of the features' type.

    Returns:
        (B, 256, C).
    """
    sums = members @ features.flatten(2).mT
    return sums / members.sum(2, keepdim=True).clamp_min(1)
