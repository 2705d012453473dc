"""What a mask file says: one raw id a pixel, whether the file holds ids or colours; torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
"""Red, green, blue in 0..255."""

UNLISTED = 255
"""The raw id of a colour that a set does not know."""

MOST_COLOURS = 255

ID_MODES = ("L", "P")
COLOUR_MODES = ("RGB", "RGBA", "P", "L")


def raw_ids(mask: Image.Image, colours: Sequence[Colour] | None) -> Pixels:
    """Raw ids (H, W) of a decoded mask, uint8.

    Args:
        mask: of one of `ID_MODES` where it holds ids (of a palette image the entries' numbers count), else of
            one of `COLOUR_MODES` (of a palette image the colours count).
        colours: the colour of each raw id; None where the mask holds the ids themselves.
    """
    if colours is None:
        return np.asarray(mask, dtype=np.uint8)
    ids: Pixels = _table(tuple(colours))[_codes(mask)]
    return ids


def unlisted_colours(mask: Image.Image, colours: Sequence[Colour], most: int) -> list[Colour]:
    """Up to `most` colours of a mask that are none of `colours`, the most frequent first."""
    found, counts = np.unique(_codes(mask), return_counts=True)
    other = _table(tuple(colours))[found] == UNLISTED
    codes = found[other][np.argsort(-counts[other], kind="stable")][:most]
    return [(code >> 16, code >> 8 & 255, code & 255) for code in codes.tolist()]


def _codes(mask: Image.Image) -> npt.NDArray[np.uint32]:
    """Colours (H, W) as one number each."""
    planes = np.asarray(mask.convert("RGB")).astype(np.uint32)
    shifts = np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    codes: npt.NDArray[np.uint32] = planes @ shifts
    return codes


@lru_cache(maxsize=2)
def _table(colours: tuple[Colour, ...]) -> Pixels:
    """Every possible colour's raw id: 16 MB, and a tenth of the time of a search."""
    table = np.full(1 << 24, UNLISTED, dtype=np.uint8)
    for number, (red, green, blue) in enumerate(colours):
        table[red << 16 | green << 8 | blue] = number
    return table
