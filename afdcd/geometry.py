"""To the input size of a network and back: one definition for validation, evaluation, serving; torch-free."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from afdcd.config import Size

Fit = Literal["stretch", "letterbox"]
"""`stretch` fills the input; `letterbox` keeps the aspect ratio and pads with black below or at the right."""

Pixels = npt.NDArray[np.uint8]


class Fitted(NamedTuple):
    """An image at the input size, and what the way back needs."""

    image: Pixels
    """(h, w, 3) at the input size."""
    original: Size
    """(height, width) before fitting."""
    inner: Size
    """(height, width) of the part of `image`, from its top left, that shows the original."""


def _resize(array: Pixels, size: Size, method: Image.Resampling) -> Pixels:
    """Resize an (H, W, 3) or (H, W) array to `size`; the array itself when the size is the same."""
    if array.shape[:2] == tuple(size):
        return array
    height, width = size
    return np.asarray(Image.fromarray(array).resize((width, height), method), dtype=np.uint8)


def inner_size(original: Size, size: Size, mode: Fit) -> Size:
    """The (height, width) that an image of `original` size takes inside an input of `size`."""
    if mode == "stretch":
        return size
    (height, width), (full_height, full_width) = original, size
    scale = min(full_height / height, full_width / width)
    return (
        min(full_height, max(1, round(height * scale))),
        min(full_width, max(1, round(width * scale))),
    )


def fit(image: Pixels, size: Size, mode: Fit) -> Fitted:
    """Bring an (H, W, 3) uint8 image to `size` (h, w): bilinear, antialiased when it shrinks.

    An image that already has the size comes back as it is, without a copy.

    Raises:
        ValueError: the array is not uint8 of shape (H, W, 3).
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected an (H, W, 3) uint8 image, got {image.dtype} {image.shape}")
    original = (int(image.shape[0]), int(image.shape[1]))
    inner = inner_size(original, size, mode)
    part = _resize(image, inner, Image.Resampling.BILINEAR)
    if inner == tuple(size):
        return Fitted(part, original, inner)
    canvas = np.zeros((*size, 3), dtype=np.uint8)
    canvas[: inner[0], : inner[1]] = part
    return Fitted(canvas, original, inner)


def unfit(class_map: Pixels, fitted: Fitted) -> Pixels:
    """Bring an (h, w) uint8 class map at the input size back to the original size, nearest neighbour.

    Raises:
        ValueError: the class map does not have the input size.
    """
    if class_map.shape != fitted.image.shape[:2]:
        raise ValueError(f"expected a class map of {fitted.image.shape[:2]}, got {class_map.shape}")
    part = np.ascontiguousarray(class_map[: fitted.inner[0], : fitted.inner[1]])
    return _resize(part, fitted.original, Image.Resampling.NEAREST)
