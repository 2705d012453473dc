"""Predictions in the files that Cityscapes' server and its evaluation scripts take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from afdcd.errors import UserError

LABEL_IDS = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
"""The 19 classes that are scored, in the order of their trainIds, and the labelIds that files hold."""

_NAME = re.compile(r"(?:.*/)?([a-zA-Z-]+_\d{6}_\d{6})(?:_leftImg8bit)?")


def label_ids(classes: Sequence[str]) -> npt.NDArray[np.uint8]:
    """A table from an engine's class numbers to labelIds, by the classes' names, (K,) uint8.

    Raises:
        UserError: a class is none of Cityscapes'.
    """
    plain = [name.replace("_", " ").replace("-", " ").lower() for name in classes]
    unknown = [name for name, known in zip(classes, plain, strict=True) if known not in LABEL_IDS]
    if unknown:
        raise UserError(
            f"Cityscapes has no class {unknown[0]!r}; its files can be written only for an engine of its 19 "
            f"classes ({', '.join(LABEL_IDS)})"
        )
    return np.array([LABEL_IDS[name] for name in plain], dtype=np.uint8)


def file_name(sample: str) -> str:
    """`berlin_000000_000019_pred_labelIds.png` for the sample `berlin_000000_000019_leftImg8bit`.

    The official scripts find predictions by city, sequence and frame at the beginning of the name.

    Raises:
        UserError: the sample's name does not have them.
    """
    parts = _NAME.fullmatch(sample)
    if parts is None:
        raise UserError(
            f"{sample!r} is not named as Cityscapes' images (berlin_000000_000019_leftImg8bit); its server "
            "knows images by these names"
        )
    return f"{parts[1]}_pred_labelIds.png"


def write(folder: Path, sample: str, prediction: npt.NDArray[np.uint8], table: npt.NDArray[np.uint8]) -> Path:
    """Write a class map (H, W) at the image's own size as a PNG of labelIds; returns its path.

    Raises:
        UserError: see `file_name`.
    """
    path = folder / file_name(sample)
    Image.fromarray(table[prediction]).save(path)
    return path
