"""Accuracy of any engine by one evaluator: fit, infer, return to the original size, count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from afdcd.config import Size
from afdcd.errors import UserError
from afdcd.geometry import Fit, fit, unfit
from afdcd.metrics import ConfusionMatrix, agreement
from deploy.config import Config

Pixels = npt.NDArray[np.uint8]


class Infers(Protocol):
    """The part of a session that an evaluation needs."""

    def infer(self, images: Pixels) -> Pixels:
        """Class map uint8 (B, H, W) of images uint8 (B, H, W, 3)."""
        ...


class Sample(NamedTuple):
    """An image (H, W, 3) and its labels (H, W), both uint8 at the original size."""

    name: str
    image: Pixels
    labels: Pixels


class Score(Config):
    """Accuracy over a set of images; shares lie in 0..1, a class without a pixel anywhere has IoU null.

    Attributes:
        classes: names in the order of the class numbers (files keep no order of `iou`).
        images: how many were scored.
        input_size: (height, width) at the engine.
        fit: how images were brought to it.
        miou: mean of `iou` over the classes that labels or predictions hold.
        pixel_accuracy: share of labelled pixels that are right.
        iou: class -> intersection over union, counted at the labels' own size over the whole set.
        agreement: share of all pixels at input size where engine and reference name the same class.
        lowest_agreement: the same of the image where it is lowest.
        max_relative_error: largest error of a logit against the reference's, on a few images
            (`deploy.probes`); null for the reference itself, and where nobody looked.
        confusion: pixels, rows truth, columns prediction, in the order of `classes`.
        engine: SHA-256 of the bundle's manifest; null for the reference.
    """

    classes: list[str]
    images: int
    input_size: Size
    fit: Fit
    miou: float
    pixel_accuracy: float
    iou: dict[str, float | None]
    agreement: float | None
    lowest_agreement: float | None
    confusion: list[list[int]]
    engine: str | None
    max_relative_error: float | None = None


class Evaluation(NamedTuple):
    """A score, and the class maps at input size of the first samples by name."""

    score: Score
    maps: dict[str, Pixels]


def _agree(name: str, prediction: Pixels, reference: Mapping[str, Pixels]) -> float:
    if name not in reference:
        raise UserError(
            f"the reference predictions lack the sample {name!r}; make them anew from the same images"
        )
    return agreement(prediction, reference[name])


def evaluate(
    session: Infers,
    samples: Iterable[Sample],
    *,
    classes: Sequence[str],
    ignore_index: int,
    size: Size,
    mode: Fit,
    reference: Mapping[str, Pixels] | None = None,
    gallery: int = 4,
    engine: str | None = None,
) -> Evaluation:
    """Score `session` on `samples`, one image a call.

    Args:
        session: an open engine.
        samples: images and labels at their original sizes, which may differ.
        classes: names in the order of the class numbers.
        ignore_index: the label of pixels that take no part.
        size: (height, width) of the engine's input.
        mode: how images are fitted to it.
        reference: class maps at input size by sample name, to agree with.
        gallery: how many class maps to keep.
        engine: hash of the bundle, for the record.

    Raises:
        UserError: no sample, a sample without a reference, or a class outside `classes`.
    """
    confusion = ConfusionMatrix(len(classes), ignore_index)
    maps: dict[str, Pixels] = {}
    agreements: list[float] = []
    images = 0
    for name, image, labels in samples:
        fitted = fit(image, size, mode)
        prediction = session.infer(fitted.image[None])[0]
        confusion.update(unfit(prediction, fitted), labels)
        images += 1
        if reference is not None:
            agreements.append(_agree(name, prediction, reference))
        if len(maps) < gallery:
            maps[name] = prediction
    if confusion.counts.sum() == 0:
        raise UserError(f"nothing to score: {images} images without a labelled pixel; check images and masks")
    iou = confusion.iou()
    score = Score(
        classes=list(classes),
        images=images,
        input_size=size,
        fit=mode,
        miou=confusion.miou(),
        pixel_accuracy=confusion.pixel_accuracy(),
        iou={
            name: None if np.isnan(value) else float(value) for name, value in zip(classes, iou, strict=True)
        },
        agreement=float(np.mean(agreements)) if agreements else None,
        lowest_agreement=min(agreements, default=None),
        confusion=confusion.counts.tolist(),
        engine=engine,
    )
    return Evaluation(score, maps)
