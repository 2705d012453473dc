"""Random scale, crop, flip and colour of one training sample.

Two orders of work. `window` cuts out what the crop will show, in whole pixels of the source, and resizes that
in uint8. `released` does what the released code does, for runs that follow it (`afdcd.data.released`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from afdcd.config import IGNORE_INDEX, AugmentConfig
from afdcd.data import released
from afdcd.native.kernels import call, has_kernels

Pixels = npt.NDArray[np.uint8]

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness that the eye sees (ITU-R BT.601)."""


class Span(NamedTuple):
    """Along one axis the crop shows `length` pixels of the source, from `start` on, resized to `out`."""

    start: int
    length: int
    out: int

    def nearest(self) -> npt.NDArray[np.int64]:
        """The source pixel in which the centre of each of the `out` pixels lies."""
        return self.start + (2 * np.arange(self.out) + 1) * self.length // (2 * self.out)


def augment(
    image: Pixels, raw_labels: Pixels, label_map: Pixels, config: AugmentConfig, rng: np.random.Generator
) -> tuple[npt.NDArray[Any], Pixels]:
    """A random crop (h, w, 3) of an image (H, W, 3), with the crop (h, w) of its labels as train ids.

    A window of the source is resized to the crop, bilinear and smoothed where it shrinks, its labels by the
    nearest: the crop of the image scaled as a whole, but for a shift of about a pixel, at the cost of a crop.
    Where the scaled image is smaller than the crop, `fill` and the ignored label follow, below and at the
    right.
    Always seven numbers are drawn, and three more for `balanced`, so that switching one thing off changes
    none of the others.

    Returns:
        The image, uint8, or float32 in 0..255 with `order: released`; and the train ids.
    """
    draws = rng.random(7).tolist()
    if config.balanced:
        draws[1:3] = balanced(raw_labels, label_map, config, draws[:3], rng.random(3).tolist())
    if config.order == "released":
        return released.augment(image, raw_labels, label_map, config, draws)
    _, top, left, mirror, *jitter = draws
    scale = scale_of(config, draws[0])
    rows = span(image.shape[0], config.crop[0], scale, top)
    columns = span(image.shape[1], config.crop[1], scale, left)
    ranges = (config.brightness, config.contrast, config.saturation)
    factors = [1.0 + (2.0 * drawn - 1.0) * reach for drawn, reach in zip(jitter, ranges, strict=True)]
    colours, across = _cut(image, rows, columns), columns.nearest()
    if mirror < config.flip:
        colours, across = colours.flip(-1), across[::-1]
    raw = raw_labels.take(rows.nearest(), 0).take(across, 1)
    # As bytes: half the time of an index array.
    ids = np.frombuffer(raw.tobytes().translate(label_map.tobytes()), np.uint8).reshape(raw.shape)
    pixels: Pixels = colours[0].permute(1, 2, 0).numpy()
    return _padded(photometric(pixels, *factors), ids, config)


def scale_of(config: AugmentConfig, drawn: float) -> float:
    """The scale that a number in [0, 1) chooses."""
    if config.order == "released":
        return released.scale_of(config, drawn)
    return config.scale[0] + drawn * (config.scale[1] - config.scale[0])


def balanced(
    raw_labels: Pixels, label_map: Pixels, config: AugmentConfig, draws: list[float], extra: list[float]
) -> list[float]:
    """Positions (top, left) in [0, 1) of a crop that shows a pixel of a class drawn evenly.

    Args:
        raw_labels: uint8 (H, W).
        label_map: (256,) train id of every raw one.
        config: `balanced` is the chance that the positions are changed at all.
        draws: numbers in [0, 1) for scale, top and left.
        extra: numbers in [0, 1): whether, which of the classes that occur, which of its pixels.
    """
    ids = np.frombuffer(raw_labels.tobytes().translate(label_map.tobytes()), np.uint8)
    classes = np.flatnonzero(np.bincount(ids, minlength=256)[:IGNORE_INDEX])
    if extra[0] >= config.balanced or not len(classes):
        return draws[1:]
    pixels = np.flatnonzero(ids == classes[int(extra[1] * len(classes))])
    place = divmod(int(pixels[int(extra[2] * len(pixels))]), raw_labels.shape[1])
    scale = scale_of(config, draws[0])
    axes = zip(raw_labels.shape, config.crop, place, draws[1:], strict=True)
    return [_position(length, crop, scale, pixel, drawn) for length, crop, pixel, drawn in axes]


def _position(length: int, crop: int, scale: float, pixel: int, drawn: float) -> float:
    """The position along an axis, drawn from those whose crop shows a source pixel."""
    count = span(length, crop, scale, 0.0).length
    first, last = max(0, pixel - count + 1), min(length - count, pixel)
    return (first + int(drawn * (last - first + 1)) + 0.5) / (length - count + 1)


def span(length: int, crop: int, scale: float, position: float) -> Span:
    """What a crop shows of an axis scaled by `scale`; `position` in [0, 1) chooses among all places."""
    scaled = max(1, round(length * scale))
    if scaled <= crop:
        return Span(0, length, scaled)
    count = min(length, max(1, round(crop / scale)))
    return Span(int(position * (length - count + 1)), count, crop)


def photometric(pixels: Pixels, brightness: float, contrast: float, saturation: float) -> Pixels:
    """Scale brightness, the distance to the mean brightness, and that to grey; factor 1 changes nothing.

    All three are linear, so they are one 3 x 4 matrix and one clip to 0..255. `pixels` is uint8 (H, W, 3).
    """
    if brightness == contrast == saturation == 1.0:
        return pixels
    red, green, blue = LUMA
    grey = float(_mean(pixels) @ np.array(LUMA))
    gain = brightness * contrast
    lift = brightness * (1.0 - contrast) * grey
    pull = gain * (1.0 - saturation)
    keep = gain * saturation
    matrix = (
        *(pull * red + keep, pull * green, pull * blue, lift),
        *(pull * red, pull * green + keep, pull * blue, lift),
        *(pull * red, pull * green, pull * blue + keep, lift),
    )
    return _mixed(pixels, matrix)


def _mean(pixels: Pixels) -> Pixels:
    """The mean colour (3,). In C it takes a fifth of the time, on the whole, and so does `_mixed`."""
    if not has_kernels() or len(pixels) > pixels.shape[1]:
        # Of a tall image Pillow may round columns first, which the kernel does not.
        mean: Pixels = np.asarray(Image.fromarray(pixels).resize((1, 1), Image.Resampling.BOX))[0, 0]
        return mean
    source, found = torch.from_numpy(pixels), torch.empty(3, dtype=torch.uint8)
    call("mean", source, source, found, *pixels.shape[:2])
    return found.numpy()


def _mixed(pixels: Pixels, matrix: tuple[float, ...]) -> Pixels:
    """Every pixel times a matrix of three rows, whose fourth column is added."""
    if not has_kernels():
        return np.asarray(Image.fromarray(pixels).convert("RGB", matrix))
    source = torch.from_numpy(pixels)
    found = torch.empty_like(source)
    call("mix", source, source, torch.tensor(matrix), found, found.numel() // 3)
    return found.numpy()


def _cut(image: Pixels, rows: Span, columns: Span) -> Tensor:
    """The window at the crop's size: uint8 (1, 3, out, out), in memory pixel by pixel (channels_last)."""
    window = image[rows.start : rows.start + rows.length, columns.start : columns.start + columns.length]
    # A copy: the source may be a read-only map, which torch takes under protest. A batch before it is turned:
    # by its strides torch then sees channels_last, and answers in kind.
    planes = torch.from_numpy(window.copy())[None].permute(0, 3, 1, 2)
    return F.interpolate(planes, size=(rows.out, columns.out), mode="bilinear", antialias=True)


def _padded(image: Pixels, ids: Pixels, config: AugmentConfig) -> tuple[Pixels, Pixels]:
    """Both at the size of the crop."""
    height, width = ids.shape
    if (height, width) == config.crop:
        return image, ids
    canvas = np.empty((*config.crop, 3), dtype=np.uint8)
    canvas[:] = config.fill
    labels = np.full(config.crop, IGNORE_INDEX, dtype=np.uint8)
    canvas[:height, :width], labels[:height, :width] = image, ids
    return canvas, labels
