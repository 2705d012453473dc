"""Some of the patches of each image, drawn from its key: a contrast of these estimates that of all."""

from __future__ import annotations

import torch
from torch import Tensor

from afdcd.losses.randomness import uniform


def drawn_patches(keys: Tensor, features: Tensor, side: int, fraction: float) -> Tensor:
    """Which whole patches of each image take part: equally many of each, all alike in probability.

    A function of each sample's key (seed, iteration, place in the batch), the map's size and the fraction
    alone. The numbers drawn are not those of the generator's mask.

    Args:
        keys: (B,) int64.
        features: (B, C, H, W), at least one patch.
        side: of a patch in cells of the map.
        fraction: above 0, up to 1; rounded to whole patches, at least one.

    Returns:
        (B, n) int64, ascending, patches counted line by line.
    """
    down, across = (size // side for size in features.shape[-2:])
    count = max(1, round(fraction * down * across))
    return uniform(~keys, down * across).argsort(dim=1, stable=True)[:, :count].sort(1).values


def taken_patches(features: Tensor, drawn: Tensor, side: int) -> Tensor:
    """The drawn patches of each image beside each other.

    Args:
        features: (B, C, H, W).
        drawn: (B, n), see `drawn_patches`.
        side: of a patch in cells of the map.

    Returns:
        (B, C, side, n * side), in the map's precision.
    """
    batch, channels, _, width = features.shape
    across = width // side
    lines = (drawn // across * side)[..., None] + torch.arange(side, device=drawn.device)
    columns = (drawn % across * side)[..., None] + torch.arange(side, device=drawn.device)
    # (B, side, n, side): where each cell of the result lies in its image.
    cells = lines.transpose(1, 2)[..., None] * width + columns[:, None]
    images = torch.arange(batch, device=drawn.device)[:, None] * (features.shape[2] * width)
    rows = features.permute(0, 2, 3, 1).reshape(-1, channels)
    taken = rows.index_select(0, (cells.flatten(1) + images).flatten())
    return taken.view(batch, side, -1, channels).permute(0, 3, 1, 2)
