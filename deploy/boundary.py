"""Boundary IoU, in integers over a whole set; numpy, no torch.

Source: Cheng, Girshick, Dollar, Berg, Kirillov, "Boundary IoU: Improving Object-Centric Image Segmentation
Evaluation", CVPR 2021, equation 2: the IoU of the parts of truth and prediction within d of their contours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.bool_]

RATIO = 0.02
"""The paper's d as a share of an image's diagonal."""


def band(mask: Mask, distance: int) -> Mask:
    """The pixels of a mask (H, W) that lie within `distance` of its contour, in rows, columns and diagonals.

    The image's border is a contour too. So a pixel is outside the band where the square of 2 distance + 1
    around it is whole.
    """
    inside = mask
    for axis in (0, 1):
        inside = _eroded(inside, distance, axis)
    return mask & ~inside


def _eroded(mask: Mask, distance: int, axis: int) -> Mask:
    """Where 2 distance + 1 neighbours along an axis are all set; beyond the border none is."""
    width = 2 * distance + 1
    before, after = [(0, 0), (0, 0)], [(0, 0), (0, 0)]
    before[axis], after[axis] = (distance + 1, distance), (0, 0)
    sums = np.pad(mask, before).cumsum(axis=axis, dtype=np.int32)
    size = mask.shape[axis]
    count = sums.take(range(width, width + size), axis) - sums.take(range(size), axis)
    found: Mask = count == width
    return found


class BoundaryCounts:
    """Intersections and unions of the bands of each class over a set, (K,) int64."""

    def __init__(self, num_classes: int, ignore_index: int, ratio: float = RATIO) -> None:
        self.ignore_index = ignore_index
        self.ratio = ratio
        self.intersection: npt.NDArray[np.int64] = np.zeros(num_classes, dtype=np.int64)
        self.union: npt.NDArray[np.int64] = np.zeros(num_classes, dtype=np.int64)

    def update(self, prediction: Labels, labels: Labels) -> None:
        """Count one image, two class maps (H, W); ignored pixels belong to no class in either."""
        ignored = labels == self.ignore_index
        height, width = labels.shape
        distance = max(1, round(self.ratio * float(np.hypot(height, width))))
        present = np.union1d(np.unique(labels[~ignored]), np.unique(prediction[~ignored]))
        for number in present.tolist():
            truth = band(labels == number, distance)
            found = band((prediction == number) & ~ignored, distance)
            self.intersection[number] += np.count_nonzero(truth & found)
            self.union[number] += np.count_nonzero(truth | found)

    def iou(self) -> npt.NDArray[np.float64]:
        """Boundary IoU of each class, (K,); nan for a class without a pixel anywhere."""
        found = np.full(self.union.shape, np.nan)
        np.divide(self.intersection, self.union, out=found, where=self.union > 0)
        return found
