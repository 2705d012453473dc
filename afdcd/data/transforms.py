"""Random scale, crop, flip and colour of one training sample, in uint8 throughout; torch-free."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from afdcd.config import IGNORE_INDEX, AugmentConfig

Pixels = npt.NDArray[np.uint8]

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness that the eye sees (ITU-R BT.601)."""


class Span(NamedTuple):
    """Along one axis: `length` source pixels from `offset` become `out` pixels."""

    offset: int
    length: int
    out: int


def augment(
    image: Pixels, raw_labels: Pixels, label_map: Pixels, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """A random crop (h, w, 3) of an image (H, W, 3), with the crop (h, w) of its labels as train ids.

    The window is cut first and then resized (bilinear; nearest for labels), so that the cost follows the crop
    and not the image. What the scaled image leaves empty is black and ignored, below and at the right.
    Always seven numbers are drawn, so that switching one thing off changes none of the others.
    """
    scale, top, left, mirror, *jitter = rng.random(7).tolist()
    scale = config.scale[0] + scale * (config.scale[1] - config.scale[0])
    rows = _span(image.shape[0], config.crop[0], scale, top)
    columns = _span(image.shape[1], config.crop[1], scale, left)
    ranges = (config.brightness, config.contrast, config.saturation)
    factors = [1.0 + (2.0 * drawn - 1.0) * reach for drawn, reach in zip(jitter, ranges, strict=True)]
    colours = photometric(_cut(image, rows, columns, Image.Resampling.BILINEAR), *factors)
    ids = label_map[np.asarray(_cut(raw_labels, rows, columns, Image.Resampling.NEAREST))]
    step = -1 if mirror < config.flip else 1
    out_image = np.zeros((*config.crop, 3), dtype=np.uint8)
    out_labels = np.full(config.crop, IGNORE_INDEX, dtype=np.uint8)
    out_image[: rows.out, : columns.out] = np.asarray(colours)[:, ::step]
    out_labels[: rows.out, : columns.out] = ids[:, ::step]
    return out_image, out_labels


def photometric(image: Image.Image, brightness: float, contrast: float, saturation: float) -> Image.Image:
    """Scale brightness, the distance to the mean brightness, and that to grey; factor 1 changes nothing.

    All three are linear, so they are one 3 x 4 matrix and one clip to 0..255.
    """
    red, green, blue = LUMA
    grey = float(np.asarray(image.resize((1, 1), Image.Resampling.BOX))[0, 0] @ np.array(LUMA))
    gain = brightness * contrast
    lift = brightness * (1.0 - contrast) * grey
    pull = gain * (1.0 - saturation)
    keep = gain * saturation
    matrix = (
        *(pull * red + keep, pull * green, pull * blue, lift),
        *(pull * red, pull * green + keep, pull * blue, lift),
        *(pull * red, pull * green, pull * blue + keep, lift),
    )
    return image.convert("RGB", matrix)


def _span(length: int, crop: int, scale: float, position: float) -> Span:
    """What a crop of the scaled image shows of an axis; `position` in [0, 1) chooses among all places."""
    scaled = max(1, round(length * scale))
    if scaled <= crop:
        return Span(0, length, scaled)
    window = min(length, max(1, round(crop / scale)))
    return Span(int(position * (length - window + 1)), window, crop)


def _cut(array: Pixels, rows: Span, columns: Span, method: Image.Resampling) -> Image.Image:
    window = array[rows.offset : rows.offset + rows.length, columns.offset : columns.offset + columns.length]
    return Image.fromarray(window).resize((columns.out, rows.out), method)
