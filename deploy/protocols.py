"""Accuracy by the protocols of papers, on an engine's logits; never a gate's food.

Gates judge what ships: one look at each image through the engine's class map (`deploy.evaluate`). Windows,
mirrored images and several scales cost a multiple of that and serve comparison with published numbers. Their
record is a type of its own, which no reader of scores accepts.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from afdcd.config import Size
from afdcd.errors import UserError
from afdcd.geometry import Fit
from afdcd.metrics import Absent, ConfusionMatrix
from deploy.boundary import BoundaryCounts
from deploy.bundle import Contract, Range
from deploy.config import Config, Count
from deploy.evaluate import Sample, Score
from deploy.windows import GivesLogits, Maps, Pixels, resize_maps, scaled, slide, whole

Scale = Annotated[float, Field(gt=0, le=8)]


class ProtocolConfig(Config):
    """How images are seen and what is counted.

    Attributes:
        view: `whole` brings an image to the engine's input as the evaluation of class maps does; `slide`
            moves windows of `crop` over it at its own size.
        crop: (height, width) of a window; null is the engine's input size. Only with `slide`.
        stride: (down, right) between windows; null is two thirds of the crop. Only with `slide`.
        flip: also see everything mirrored.
        scales: sizes at which an image is seen, times its own; with `whole` only an engine of free sizes
            takes others than 1.
        absent: what a class without a pixel in labels and predictions counts in the mean.
        boundary: the width of Boundary IoU as a share of the diagonal (in the paper 0.02); null counts none.
    """

    view: Literal["whole", "slide"]
    crop: tuple[Count, Count] | None
    stride: tuple[Count, Count] | None
    flip: bool
    scales: Annotated[list[Scale], Field(min_length=1)]
    absent: Absent
    boundary: Annotated[float, Field(gt=0, lt=1)] | None

    @model_validator(mode="after")
    def _fits_view(self) -> ProtocolConfig:
        """Windows belong to `slide`, and leave no pixel unseen.

        Raises:
            ValueError: which setting is wrong.
        """
        if self.view == "whole" and (self.crop or self.stride):
            raise ValueError("must have crop and stride null with view: whole")
        if self.crop and self.stride and any(s > c for s, c in zip(self.stride, self.crop, strict=True)):
            raise ValueError(
                "must have a stride of at most the crop, else pixels between windows are not seen"
            )
        return self


class ProtocolScore(Config):
    """Accuracy by a protocol; shares lie in 0..1, a class without a pixel anywhere has null.

    Attributes:
        gated: never; no gate reads this record.
        protocol: what was asked for, crop and stride as they were used.
        averaged: what the mean over windows, sides and scales was taken of.
        input_size: (height, width) of the engine's input, or of a window.
        absent_classes: those without a pixel in labels and predictions.
        confusion: pixels, rows truth, columns prediction, in the order of `classes`.
        engine: SHA-256 of the bundle's manifest.
    """

    gated: Literal[False]
    protocol: ProtocolConfig
    averaged: Literal["probabilities"]
    fit: Fit | None
    classes: list[str]
    images: int
    input_size: Size
    miou: float
    pixel_accuracy: float
    iou: dict[str, float | None]
    boundary_miou: float | None
    boundary_iou: dict[str, float | None] | None
    absent_classes: list[str]
    confusion: list[list[int]]
    engine: str | None


Keep = Callable[[str, Pixels], object]
"""Is given each sample's name and class map (H, W) at the labels' size."""


def evaluate_protocol(
    session: GivesLogits,
    samples: Iterable[Sample],
    contract: Contract,
    protocol: ProtocolConfig,
    *,
    engine: str | None,
    keep: Keep | None = None,
) -> ProtocolScore:
    """Score the logits of an open engine by a protocol, one image at a time.

    Raises:
        UserError: the engine cannot take the sizes of the protocol, or no pixel is labelled.
    """
    used = resolved(protocol, contract)
    classes, ignore = contract.classes, contract.ignore_index
    confusion = ConfusionMatrix(len(classes), ignore)
    edges = BoundaryCounts(len(classes), ignore, used.boundary) if used.boundary else None
    images = 0
    for name, image, labels in samples:
        prediction = predict(session, image, contract, used)
        confusion.update(prediction, labels)
        if edges is not None:
            edges.update(prediction, labels)
        if keep is not None:
            keep(name, prediction)
        images += 1
    if confusion.counts.sum() == 0:
        raise UserError(f"nothing to score: {images} images without a labelled pixel; check images and masks")
    iou = confusion.iou()
    boundary = None if edges is None else edges.iou()
    return ProtocolScore(
        gated=False,
        protocol=used,
        averaged="probabilities",
        fit=contract.geometry.fit if used.view == "whole" else None,
        classes=list(classes),
        images=images,
        input_size=used.crop or contract.geometry.size,
        miou=confusion.miou(used.absent),
        pixel_accuracy=confusion.pixel_accuracy(),
        iou=_named(classes, iou),
        boundary_miou=None if boundary is None else _mean(boundary, used.absent),
        boundary_iou=None if boundary is None else _named(classes, boundary),
        absent_classes=[name for name, value in zip(classes, iou, strict=True) if np.isnan(value)],
        confusion=confusion.counts.tolist(),
        engine=engine,
    )


def predict(session: GivesLogits, image: Pixels, contract: Contract, protocol: ProtocolConfig) -> Pixels:
    """The class map (H, W) of an image at its own size; `protocol` is one of `resolved`."""
    size = (int(image.shape[0]), int(image.shape[1]))
    total: Maps | None = None
    for scale in protocol.scales:
        if protocol.view == "slide":
            assert protocol.crop is not None and protocol.stride is not None
            seen = slide(session, scaled(image, scale), protocol.crop, protocol.stride, flip=protocol.flip)
            found = resize_maps(seen, size)
        else:
            at = input_at(contract, scale)
            found = whole(session, image, at, contract.geometry.fit, flip=protocol.flip)
        total = found if total is None else total + found
    assert total is not None
    prediction: Pixels = total.argmax(axis=0).astype(np.uint8)
    return prediction


def resolved(protocol: ProtocolConfig, contract: Contract) -> ProtocolConfig:
    """The protocol with crop and stride in numbers, if the engine can follow it.

    Raises:
        UserError: it takes no windows of that size, or no other scales.
    """
    if protocol.view == "whole":
        for scale in protocol.scales:
            _require(contract, input_at(contract, scale), f"an image at scale {scale:g}")
        return protocol
    crop = protocol.crop or contract.geometry.size
    _require(contract, crop, "a window")
    stride = protocol.stride or (-(-2 * crop[0] // 3), -(-2 * crop[1] // 3))
    values = protocol.model_dump() | {"crop": crop, "stride": stride}
    if any(step > side for step, side in zip(stride, crop, strict=True)):
        raise UserError(f"stride {stride[0]}x{stride[1]} is longer than the window {crop[0]}x{crop[1]}")
    return ProtocolConfig.model_validate(values)


def input_at(contract: Contract, scale: float) -> Size:
    """(height, width) of the input at a scale, on the engine's grid."""
    sides = []
    for side, limit in zip(
        contract.geometry.size, (contract.input.height, contract.input.width), strict=True
    ):
        step = limit.multiple if isinstance(limit, Range) else 1
        sides.append(side if scale == 1 else max(step, step * round(side * scale / step)))
    return sides[0], sides[1]


def _require(contract: Contract, size: Size, what: str) -> None:
    """Refuse a size that the engine does not take; the engine itself says which it takes."""
    try:
        contract.admit(np.zeros((1, *size, 3), dtype=np.uint8))
    except UserError as error:
        raise UserError(
            f"{what} would be {size[0]}x{size[1]}: {error}. Export for other sizes (deploy.export.dynamic), "
            "or take view slide with the engine's own size as crop"
        ) from error


def _named(classes: Sequence[str], values: npt.NDArray[np.float64]) -> dict[str, float | None]:
    pairs = zip(classes, values.tolist(), strict=True)
    return {name: None if np.isnan(value) else value for name, value in pairs}


def _mean(values: npt.NDArray[np.float64], absent: Absent) -> float:
    return float(np.nan_to_num(values).mean() if absent == "zero" else np.nanmean(values))


def per_class_csv(score: ProtocolScore | Score) -> str:
    """A line a class: IoU, Boundary IoU, pixels of truth, of prediction, and right ones; empty where null."""
    counts = np.array(score.confusion, dtype=np.int64)
    boundary = score.boundary_iou if isinstance(score, ProtocolScore) else None
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "iou", "boundary_iou", "truth_pixels", "predicted_pixels", "right_pixels"])
    for number, name in enumerate(score.classes):
        edge = None if boundary is None else boundary[name]
        row = [_cell(score.iou[name]), _cell(edge)]
        pixels = [counts[number].sum(), counts[:, number].sum(), counts[number, number]]
        writer.writerow([name, *row, *(int(count) for count in pixels)])
    return text.getvalue()


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"
