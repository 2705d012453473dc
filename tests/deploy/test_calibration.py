from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from afdcd.errors import UserError
from deploy.bundle import Geometry
from deploy.calibration import drawn, fingerprint, read_folder

GEOMETRY = Geometry(size=(8, 16), fit="stretch")


def _folder(place: Path, count: int) -> Path:
    for number in range(count):
        pixels = np.full((8, 16, 3), 10 * number, np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    (place / "notes.txt").write_text("no image")
    return place


def test_images_come_at_the_input_size_in_order(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 32), 50, np.uint8)).save(_folder(tmp_path, 3) / "3.jpg")
    images = read_folder(tmp_path, GEOMETRY, count=9, seed=0)
    assert images.shape == (4, 8, 16, 3) and images.dtype == np.uint8
    assert [image.max() for image in images] == [0, 10, 20, 50]


def test_a_draw_is_the_same_each_time_and_another_with_another_seed(tmp_path: Path) -> None:
    folder = _folder(tmp_path, 20)
    first, again, other = (read_folder(folder, GEOMETRY, count=5, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert len(first) == 5 and (first != other).any()
    assert list(drawn(20, 5, 0)) == sorted(set(drawn(20, 5, 0))) and list(drawn(3, 5, 0)) == [0, 1, 2]


def test_the_hash_tells_images_apart() -> None:
    images = np.zeros((2, 8, 16, 3), np.uint8)
    assert fingerprint(images) == hashlib.sha256(bytes(2 * 8 * 16 * 3)).hexdigest()
    assert fingerprint(images + 1) != fingerprint(images)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no image .*jpg"):
        read_folder(_folder(tmp_path, 0), GEOMETRY, count=5, seed=0)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none is no folder; give one with calibration images"):
        read_folder(tmp_path / "none", GEOMETRY, count=5, seed=0)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    (_folder(tmp_path, 1) / "1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="1.png cannot be read as an image"):
        read_folder(tmp_path, GEOMETRY, count=5, seed=0)
