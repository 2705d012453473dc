"""The picture rows of the report: image, truth, and what each engine made of it."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

UNLABELLED = (20, 20, 24)


class Picture(NamedTuple):
    """An embedded picture: a data URI and what it shows in words."""

    source: str
    alt: str


def colourise(class_map: npt.NDArray[np.uint8], palette: list[tuple[int, int, int]]) -> npt.NDArray[np.uint8]:
    """A class map (H, W) as RGB (H, W, 3); ids beyond the palette are drawn almost black."""
    table = np.full((256, 3), UNLABELLED, np.uint8)
    table[: len(palette)] = palette
    return table[class_map]


def embed(image: npt.NDArray[np.uint8], alt: str, width: int) -> Picture:
    """An RGB or class-colour image (H, W, 3) as a PNG data URI, at most `width` pixels wide."""
    picture = Image.fromarray(image)
    if picture.width > width:
        size = (width, round(picture.height * width / picture.width))
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    buffer = BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return Picture("data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(), alt)


def embed_map(
    class_map: npt.NDArray[np.uint8], palette: list[tuple[int, int, int]], alt: str, width: int
) -> Picture:
    """A class map (H, W) as a paletted PNG data URI; shrunk by nearest neighbour: no colour is invented."""
    picture = Image.fromarray(colourise(class_map, palette))
    if picture.width > width:
        size = (width, round(picture.height * width / picture.width))
        picture = picture.resize(size, Image.Resampling.NEAREST)
    buffer = BytesIO()
    picture.quantize(len(palette) + 1, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return Picture("data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(), alt)
