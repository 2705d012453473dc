"""The one definition of mIoU, for every engine: a confusion matrix of numpy integers, torch-free."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from afdcd.config import IGNORE_INDEX
from afdcd.errors import UserError

Absent = Literal["skip", "zero"]
"""What a class without a pixel in labels and predictions counts in the mean: nothing, or an IoU of 0."""

Labels = npt.NDArray[np.integer[Any]]


def _refuse_outside(values: Labels, num_classes: int, kind: str) -> None:
    """Refuse class numbers outside 0..num_classes-1."""
    if values.size and (int(values.max()) >= num_classes or int(values.min()) < 0):
        found = int(values.max()) if int(values.max()) >= num_classes else int(values.min())
        raise UserError(
            f"{kind} holds class {found}, but there are {num_classes} classes (0..{num_classes - 1}); "
            "the model and the data set must agree on the classes"
        )


class ConfusionMatrix:
    """Pixel counts over a whole set, rows truth, columns prediction; int64, so exact above 2^24.

    Every pixel of the set counts alike (no mean over images). Pixels labelled `ignore_index` take no part.
    """

    def __init__(self, num_classes: int, ignore_index: int = IGNORE_INDEX) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts: npt.NDArray[np.int64] = np.zeros((num_classes, num_classes), dtype=np.int64)

    def update(self, prediction: Labels, labels: Labels) -> None:
        """Count `prediction` against `labels`, two integer arrays of one shape, (B, H, W) or (H, W).

        Raises:
            UserError: a shape differs, or a class lies outside 0..num_classes-1.
        """
        if prediction.shape != labels.shape:
            raise UserError(f"prediction {prediction.shape} and labels {labels.shape} differ in shape")
        valid = labels != self.ignore_index
        truth = labels[valid].astype(np.int64)
        _refuse_outside(truth, self.num_classes, "a label map")
        _refuse_outside(prediction, self.num_classes, "a prediction")
        cells = truth * self.num_classes + prediction[valid]
        size = self.num_classes**2
        self.counts += np.bincount(cells, minlength=size).reshape(self.num_classes, self.num_classes)

    def merge(self, other: ConfusionMatrix) -> Self:
        """Add another part of the same set, in place.

        Raises:
            ValueError: the other matrix has another number of classes.
        """
        if other.num_classes != self.num_classes:
            raise ValueError(f"cannot add {other.num_classes} classes to {self.num_classes}")
        self.counts += other.counts
        return self

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        return ConfusionMatrix(self.num_classes, self.ignore_index).merge(self).merge(other)

    def iou(self) -> npt.NDArray[np.float64]:
        """Intersection over union of each class, (K,); nan where labels and predictions both lack it."""
        hit = self.counts.diagonal().astype(np.float64)
        union = self.counts.sum(axis=0) + self.counts.sum(axis=1) - self.counts.diagonal()
        iou = np.full(self.num_classes, np.nan)
        np.divide(hit, union, out=iou, where=union > 0)
        return iou

    def miou(self, absent: Absent = "skip") -> float:
        """Mean IoU over classes, 0..1; nan when no pixel was counted and absent classes are skipped."""
        iou = self.iou()
        if absent == "zero":
            return float(np.nan_to_num(iou, nan=0.0).mean())
        present = iou[~np.isnan(iou)]
        return float(present.mean()) if present.size else float("nan")

    def pixel_accuracy(self) -> float:
        """Share of labelled pixels that are right, 0..1; nan when none was counted."""
        total = int(self.counts.sum())
        return int(self.counts.trace()) / total if total else float("nan")


def agreement(first: Labels, second: Labels) -> float:
    """Share of pixels, 0..1, on which two class maps of one shape name the same class.

    Raises:
        UserError: the shapes differ, or there is no pixel.
    """
    if first.shape != second.shape or first.size == 0:
        raise UserError(f"cannot compare class maps of shapes {first.shape} and {second.shape}")
    return int(np.count_nonzero(first == second)) / first.size
