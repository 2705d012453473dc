"""What is contrasted: the rows of patches, and which teacher rows repel an anchor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from afdcd.losses.inputs import wide

Distance = Literal["l1", "l2"]

NORM = {"l1": 1.0, "l2": 2.0}


class Setting(NamedTuple):
    """A contrast of (B, C, H, W) maps.

    Each map is cropped at the bottom and right to whole patches. The R = cells * groups vectors of a patch
    are its rows; row cell * groups + group holds d = C / groups contiguous channels of one cell.

    Attributes:
        patch: height and width of a patch in cells.
        groups: number of channel groups; divides C.
        temperature: t > 0.
        distance: norm of the difference of two rows, not squared.
        cross_group: rows of the anchor's own group are no negatives.
    """

    patch: tuple[int, int]
    groups: int
    temperature: float
    distance: Distance
    cross_group: bool

    @property
    def rows(self) -> int:
        """Rows of a patch."""
        return self.patch[0] * self.patch[1] * self.groups

    def grid(self, features: Tensor) -> tuple[int, int]:
        """How many whole patches stand below and beside each other."""
        return features.shape[-2] // self.patch[0], features.shape[-1] // self.patch[1]


def patch_rows(features: Tensor, setting: Setting) -> Tensor:
    """(B, C, H, W) -> (patches of all images, R, d), wide and contiguous."""
    rows = _parts(features, setting).reshape(-1, setting.rows, features.shape[1] // setting.groups)
    return wide(rows).contiguous()


def put_rows(rows: Tensor, features: Tensor, setting: Setting) -> None:
    """Write what `patch_rows` would read back into (B, C, H, W); cropped cells stay as they are."""
    parts = _parts(features, setting)
    parts.copy_(rows.view(parts.shape))


def _parts(features: Tensor, setting: Setting) -> Tensor:
    """A view (B, down, across, height, width, groups, d) of the whole patches."""
    (height, width), (down, across) = setting.patch, setting.grid(features)
    whole = features[..., : down * height, : across * width]
    # A view, whatever the layout: sides are only split.
    parts = whole.view(len(features), setting.groups, -1, down, height, across, width)
    return parts.permute(0, 3, 5, 4, 6, 1, 2)


def stretches(features: Tensor, setting: Setting, patches: int) -> Iterator[tuple[slice, slice, slice]]:
    """Slices of images, lines and columns that hold at most so many whole patches, at least one."""
    (height, width), (down, across) = setting.patch, setting.grid(features)
    images = max(1, patches // (down * across))
    bands = min(down, max(1, patches // across))
    beside = min(across, max(1, patches))
    for image in range(0, len(features), images):
        for band in range(0, down, bands):
            lines = slice(band * height, min(down, band + bands) * height)
            for column in range(0, across, beside):
                columns = slice(column * width, min(across, column + beside) * width)
                yield slice(image, image + images), lines, columns


def excluded(start: int, anchors: int, setting: Setting, device: torch.device) -> Tensor | None:
    """(anchors, R) bool, True where an anchor (`start` and following) and a row are no pair."""
    if not setting.cross_group:
        return None
    own = torch.arange(start, start + anchors, device=device)[:, None]
    others = torch.arange(setting.rows, device=device)
    return (own % setting.groups == others % setting.groups) & (own != others)
