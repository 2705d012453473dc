"""Class maps, or logits, of many samples in one compressed file, by sample name."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from afdcd.errors import UserError

PREFIX = "map:"
"""Before a sample's name in an archive: an image called `file` must not meet numpy's own arguments."""

Maps = Mapping[str, npt.NDArray[np.uint8]]
"""Sample name -> class map at input size."""


def save_maps(path: Path, maps: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays to `path`, which is to end in .npz; the caller renames."""
    np.savez_compressed(
        path, allow_pickle=False, **{PREFIX + name: class_map for name, class_map in maps.items()}
    )


def load_maps(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Arrays by sample name.

    Raises:
        UserError: the file is missing or broken.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name.removeprefix(PREFIX): archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; run dvc repro") from error
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read ({error}); delete its folder and run dvc repro") from error
