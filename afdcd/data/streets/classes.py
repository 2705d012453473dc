"""The classes of the streets: CamVid's eleven ids, and nine that merge what is thin or rare."""

from __future__ import annotations

from typing import Literal

import numpy as np

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)

Rgb = tuple[int, int, int]
ClassCount = Literal[9, 11]

_CAMVID: dict[str, Rgb] = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "signsymbol": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}

_MERGED: dict[str, Rgb] = {
    "sky": _CAMVID["sky"],
    "building": _CAMVID["building"],
    "pole_sign": _CAMVID["pole"],
    "road": _CAMVID["road"],
    "pavement": _CAMVID["pavement"],
    "tree": _CAMVID["tree"],
    "fence": _CAMVID["fence"],
    "car": _CAMVID["car"],
    "person": _CAMVID["pedestrian"],
}

CLASSES: dict[ClassCount, tuple[str, ...]] = {11: tuple(_CAMVID), 9: tuple(_MERGED)}
"""Names by number of classes; the position is the id."""

PALETTES: dict[ClassCount, tuple[Rgb, ...]] = {11: tuple(_CAMVID.values()), 9: tuple(_MERGED.values())}
"""RGB colours in the order of `CLASSES`; CamVid's own where the class is the same."""

TO_NINE = np.array([0, 1, 2, 3, 4, 5, 2, 6, 7, 8, 8], dtype=np.uint8)
"""Id of eleven -> id of nine: poles with signs, pedestrians with cyclists."""
