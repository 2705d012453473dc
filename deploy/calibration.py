"""Calibration images: drawn, brought to the input size, and told apart by their hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from afdcd.errors import UserError
from afdcd.geometry import fit
from deploy.bundle import Geometry
from deploy.pairs import images_of, open_image


def read_folder(folder: Path, geometry: Geometry, *, count: int, seed: int) -> npt.NDArray[np.uint8]:
    """Images of a folder at the input size, (N, H, W, 3), in the order of their names.

    Args:
        folder: images of what the network will see; not those it is scored on.
        geometry: the engine's input size, and how images are brought to it.
        count: at most so many, drawn where there are more.
        seed: of the draw.

    Raises:
        UserError: it is no folder, holds no image, or an image cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give one with calibration images")
    files = images_of(folder)
    kept = drawn(len(files), count, seed)
    return np.stack(
        [
            fit(np.asarray(open_image(files[index]).convert("RGB")), geometry.size, geometry.fit).image
            for index in kept
        ]
    )


def drawn(available: int, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Which of so many images calibrate, in rising order."""
    return np.sort(np.random.default_rng(seed).permutation(available)[:count])


def fingerprint(images: npt.NDArray[np.uint8]) -> str:
    """SHA-256 of calibration images at input size; the manifest holds it."""
    return hashlib.sha256(images.tobytes()).hexdigest()
