"""Images and masks of two folders, paired by name, for a person who has no prepared data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from afdcd.errors import UserError
from deploy.evaluate import Sample

IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


class Pair(NamedTuple):
    """An image file and the file of its class numbers."""

    name: str
    image: Path
    mask: Path


def pair(images: Path, masks: Path) -> list[Pair]:
    """Pair every image with the PNG of the same stem.

    Raises:
        UserError: a folder is missing or empty, or an image has no mask.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; give the folders with the images and with their masks")
    found = images_of(images)
    missing = [path.name for path in found if not (masks / f"{path.stem}.png").is_file()]
    if missing:
        raise UserError(
            f"{masks} lacks the mask of {missing[0]} ({len(missing)} missing); masks are <name>.png"
        )
    return [Pair(path.stem, path, masks / f"{path.stem}.png") for path in found]


def unlabelled(files: Sequence[Path]) -> Iterator[Sample]:
    """Load images without masks one by one; every label is 255, which names no class.

    Raises:
        UserError: one cannot be read.
    """
    for path in files:
        image = np.asarray(open_image(path).convert("RGB"))
        yield Sample(path.name, image, np.full(image.shape[:2], 255, dtype=np.uint8))


def images_of(folder: Path) -> list[Path]:
    """The image files of a folder by name.

    Raises:
        UserError: there is none.
    """
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES)
    if not found:
        raise UserError(f"{folder} holds no image ({', '.join(sorted(IMAGES))}); put some there")
    return found


def open_image(path: Path) -> Image.Image:
    """An image that is whole.

    Raises:
        UserError: it is missing, damaged or no image.
    """
    try:
        image = Image.open(path)
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}); replace or remove it") from error
    return image


def read(pairs: list[Pair]) -> Iterator[Sample]:
    """Load the pairs one by one; masks hold class numbers as grey values or palette entries.

    Raises:
        UserError: a file is unreadable, a mask is in colour, or the sizes differ.
    """
    for name, image_path, mask_path in pairs:
        image = np.asarray(open_image(image_path).convert("RGB"))
        mask = open_image(mask_path)
        if mask.mode not in ("L", "P", "1"):
            raise UserError(f"{mask_path} is in colour ({mask.mode}); a mask holds one class number a pixel")
        labels = np.asarray(mask, dtype=np.uint8)
        if labels.shape != image.shape[:2]:
            raise UserError(
                f"{mask_path} is {labels.shape}, its image is {image.shape[:2]}; sizes must agree"
            )
        yield Sample(name, image, labels)
