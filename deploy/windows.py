"""Class probabilities of whole images from an engine of one size: windows, flips, scales; numpy, no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from afdcd.config import Size
from afdcd.geometry import Fit, fit

Pixels = npt.NDArray[np.uint8]
Maps = npt.NDArray[np.float32]


class GivesLogits(Protocol):
    """The part of a session that these protocols need."""

    def logits(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Logits (B, K, H, W) of images uint8 (B, H, W, 3)."""
        ...


def softmax(logits: Maps) -> Maps:
    """Probabilities over the first axis of (K, H, W)."""
    shifted = np.exp(logits - logits.max(axis=0, keepdims=True))
    found: Maps = shifted / shifted.sum(axis=0, keepdims=True)
    return found


def resize_maps(maps: Maps, size: Size) -> Maps:
    """(K, h, w) at another (height, width): bilinear between cell centres, not smoothed when it shrinks.

    What `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)` gives.
    """
    for axis, wanted in ((1, size[0]), (2, size[1])):
        length = maps.shape[axis]
        if length == wanted:
            continue
        place = ((np.arange(wanted) + 0.5) * (length / wanted) - 0.5).clip(0, length - 1)
        low = np.floor(place).astype(np.intp)
        high = np.minimum(low + 1, length - 1)
        share = (place - low).astype(np.float32)
        share = share[:, None] if axis == 1 else share
        maps = maps.take(low, axis) * (1 - share) + maps.take(high, axis) * share
    return maps


def starts(length: int, crop: int, stride: int) -> list[int]:
    """Where windows of `crop` begin along `length`, `stride` apart; the last one ends at the end."""
    last = max(0, length - crop)
    return [min(index * stride, last) for index in range(math.ceil(last / stride) + 1)]


def slide(session: GivesLogits, image: Pixels, crop: Size, stride: Size, *, flip: bool) -> Maps:
    """Probabilities (K, H, W) of an image (H, W, 3): the mean over the windows that see a pixel.

    An image smaller than a window is padded with black below and at the right.

    Args:
        session: an open engine.
        image: uint8, RGB.
        crop: (height, width) of a window, a size that the engine takes.
        stride: (down, right) from one window to the next.
        flip: also see each window mirrored, and average.
    """
    height, width = image.shape[:2]
    padded = np.zeros((max(height, crop[0]), max(width, crop[1]), 3), dtype=np.uint8)
    padded[:height, :width] = image
    total: Maps | None = None
    seen = np.zeros(padded.shape[:2], dtype=np.float32)
    for top, left in _corners(padded.shape[:2], crop, stride):
        window = np.s_[top : top + crop[0], left : left + crop[1]]
        found = probabilities(session, padded[window], flip=flip)
        if total is None:
            total = np.zeros((found.shape[0], *padded.shape[:2]), dtype=np.float32)
        total[:, window[0], window[1]] += found
        seen[window] += 1
    assert total is not None
    mean: Maps = (total / seen).astype(np.float32)[:, :height, :width]
    return mean


def _corners(size: tuple[int, ...], crop: Size, stride: Size) -> Iterator[tuple[int, int]]:
    for top in starts(size[0], crop[0], stride[0]):
        for left in starts(size[1], crop[1], stride[1]):
            yield top, left


def probabilities(session: GivesLogits, image: Pixels, *, flip: bool) -> Maps:
    """Probabilities (K, h, w) of one image of a size the engine takes; `flip` averages both sides."""
    found = softmax(session.logits(np.ascontiguousarray(image[None]))[0])
    if not flip:
        return found
    mirrored = softmax(session.logits(np.ascontiguousarray(image[None, :, ::-1]))[0])
    mean: Maps = ((found + mirrored[:, :, ::-1]) / 2).astype(np.float32)
    return mean


def whole(session: GivesLogits, image: Pixels, size: Size, mode: Fit, *, flip: bool) -> Maps:
    """Probabilities (K, H, W) at the image's own size, seen once at `size`; the way back is bilinear."""
    fitted = fit(image, size, mode)
    found = probabilities(session, fitted.image, flip=flip)
    return resize_maps(found[:, : fitted.inner[0], : fitted.inner[1]], fitted.original)


def scaled(image: Pixels, scale: float) -> Pixels:
    """An image at `scale` times its size, bilinear, smoothed when it shrinks."""
    if scale == 1:
        return image
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.uint8)
