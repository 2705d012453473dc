"""A training sample in the order of the released code (CIRKD's data sets, which Af-DCD uses); torch-free.

There the image is scaled as a whole by OpenCV (uint8, bilinear between the four nearest pixels, without
smoothing; labels by OpenCV's nearest, which takes the pixel at the upper left), normalised to float, padded
with zeros, and only then cropped and mirrored. Each value depends on its own place only, so computing the
crop alone gives the same numbers. The scaled values equal those of OpenCV 4.10 and 5.0 bit for bit, but for
the last row or column of an odd size at scale 0.5, where OpenCV takes a mean of other pixels.

Normalisation is the network's (`ModelConfig.normalisation`). A zero after it is the mean before it: `fill`
must be that mean, in the order red, green, blue, and the image is float32, as a mean is no whole number.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from afdcd.config import IGNORE_INDEX, SCALE_STEP, AugmentConfig

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int32]


class Axis(NamedTuple):
    """Where the pixels of a crop come from along one axis."""

    low: Numbers
    high: Numbers
    weights: tuple[Numbers, Numbers]
    """Of `low` and of `high`, in 2048ths."""
    nearest: Numbers


def augment(
    image: Pixels, raw_labels: Pixels, label_map: Pixels, config: AugmentConfig, draws: list[float]
) -> tuple[Floats, Pixels]:
    """A crop (h, w, 3), float32 in 0..255, and the train ids (h, w) of its labels.

    Args:
        image: uint8 (H, W, 3), red, green, blue.
        raw_labels: uint8 (H, W).
        label_map: (256,) train id of every raw one.
        config: `scale` is walked in steps of a tenth.
        draws: numbers in [0, 1) for scale, top, left and flip; further ones are not used.
    """
    scale, top, left, mirror = draws[:4]
    factor = scale_of(config, scale)
    rows = _axis(image.shape[0], config.crop[0], factor, top)
    columns = _axis(image.shape[1], config.crop[1], factor, left)
    size = np.s_[: len(rows.nearest), : len(columns.nearest)]
    out_image = np.empty((*config.crop, 3), dtype=np.float32)
    out_image[:] = config.fill
    out_image[size] = _between(image, rows, columns)
    out_labels = np.full(config.crop, IGNORE_INDEX, dtype=np.uint8)
    out_labels[size] = label_map[raw_labels[np.ix_(rows.nearest, columns.nearest)]]
    step = -1 if mirror < config.flip else 1
    return out_image[:, ::step], out_labels[:, ::step]


def scale_of(config: AugmentConfig, drawn: float) -> float:
    """The scale that a number in [0, 1) chooses among the steps."""
    first, last = (round(end / SCALE_STEP) for end in config.scale)
    return config.scale[0] + int(drawn * (last - first + 1)) / round(1 / SCALE_STEP)


def _axis(length: int, crop: int, factor: float, position: float) -> Axis:
    """The crop's pixels of an axis scaled by `factor`; half-pixel centres, edges repeated."""
    scaled = max(1, round(length * factor))
    place = np.arange(min(crop, scaled)) + int(position * (max(0, scaled - crop) + 1))
    exact = ((place + 0.5) * (1.0 / factor) - 0.5).astype(np.float32)
    floor = np.floor(exact)
    share = exact - floor
    weights = np.rint((1 - share) * 2048).astype(np.int32), np.rint(share * 2048).astype(np.int32)
    low, high = (np.clip(floor + side, 0, length - 1).astype(np.int32) for side in (0, 1))
    nearest = np.minimum(np.floor(place * (1.0 / factor)), length - 1).astype(np.int32)
    return Axis(low, high, weights, nearest)


def _between(image: Pixels, rows: Axis, columns: Axis) -> Numbers:
    """Bilinear values (rows, columns, 3) in 0..255, by the whole numbers that OpenCV computes with."""
    top, left = rows.low[0], columns.low[0]
    part = image[top : rows.high[-1] + 1, left : columns.high[-1] + 1].astype(np.int32)
    before, after = (weight[:, None] for weight in columns.weights)
    lines = part[:, columns.low - left] * before + part[:, columns.high - left] * after >> 4
    above, below = (weight[:, None, None] for weight in rows.weights)
    values: Numbers = (lines[rows.low - top] * above >> 16) + (lines[rows.high - top] * below >> 16) + 2 >> 2
    return values
