"""Calibration images: drawn, brought to the input size, and told apart by their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from afdcd.errors import UserError
from afdcd.geometry import fit
from deploy.bundle import Geometry
from deploy.pairs import images_of, open_image

HELD_OUT = 0.25
"""Share of the images of a folder that judge, where no others are given."""

MOST_HELD_OUT = 64


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
    files = _files(folder)
    return read_images([files[index] for index in drawn(len(files), count, seed)], geometry)


def split(folder: Path, *, count: int, seed: int) -> tuple[list[Path], list[Path]]:
    """Images of a folder that calibrate, and others that judge: a quarter, at most 64.

    Args:
        folder: images of what the network will see.
        count: at most so many calibrate.
        seed: of the draw.

    Raises:
        UserError: it is no folder, or holds fewer than two images.
    """
    files = _files(folder)
    if len(files) < 2:
        raise UserError(
            f"{folder} holds one image, {files[0].name}; at least two are needed, one to calibrate and one "
            "to judge on, or others with --images"
        )
    order = np.random.default_rng(seed).permutation(len(files))
    judging = min(max(1, round(HELD_OUT * len(files))), MOST_HELD_OUT)
    first, rest = order[: min(count, len(files) - judging)], order[len(files) - judging :]
    return [files[index] for index in np.sort(first)], [files[index] for index in np.sort(rest)]


def read_images(files: Sequence[Path], geometry: Geometry) -> npt.NDArray[np.uint8]:
    """Images at the input size, (N, H, W, 3).

    Raises:
        UserError: one cannot be read.
    """
    return np.stack(
        [
            fit(np.asarray(open_image(path).convert("RGB")), geometry.size, geometry.fit).image
            for path in files
        ]
    )


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give one with calibration images")
    return images_of(folder)


def drawn(available: int, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Which of so many images calibrate, in rising order."""
    return np.sort(np.random.default_rng(seed).permutation(available)[:count])


def fingerprint(images: npt.NDArray[np.uint8]) -> str:
    """SHA-256 of calibration images at input size; the manifest holds it."""
    return hashlib.sha256(images.tobytes()).hexdigest()
