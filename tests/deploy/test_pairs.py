from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from afdcd.errors import UserError
from deploy.pairs import pair, read


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    for name in ("b.jpg", "a.PNG"):
        Image.new("RGB", (6, 4), (10, 20, 30)).save(images / name)
        Image.fromarray(np.full((4, 6), 2, dtype=np.uint8)).save(masks / f"{name[0]}.png")
    (images / "notes.txt").write_text("no image")
    return images, masks


def test_pairs_by_stem_in_order(folders: tuple[Path, Path]) -> None:
    samples = list(read(pair(*folders)))
    assert [sample.name for sample in samples] == ["a", "b"]
    assert samples[0].image.shape == (4, 6, 3) and samples[0].image[0, 0].tolist() == [10, 20, 30]
    assert (samples[0].labels == 2).all() and samples[0].labels.dtype == np.uint8


def test_palette_entries_are_class_numbers(folders: tuple[Path, Path]) -> None:
    mask = Image.fromarray(np.full((4, 6), 1, dtype=np.uint8), mode="P")
    mask.putpalette([0, 0, 0, 255, 0, 0])
    mask.save(folders[1] / "a.png")
    assert (next(read(pair(*folders))).labels == 1).all()


def test_what_does_not_fit_is_named(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    with pytest.raises(UserError, match="nowhere is no folder"):
        pair(images, masks / "nowhere")
    with pytest.raises(UserError, match="holds no image"):
        (masks / "empty").mkdir()
        pair(masks / "empty", masks)
    Image.new("RGB", (6, 4)).save(masks / "a.png")
    with pytest.raises(UserError, match="a.png is in colour"):
        list(read(pair(images, masks)))
    Image.new("L", (5, 4)).save(masks / "a.png")
    with pytest.raises(UserError, match="sizes must agree"):
        list(read(pair(images, masks)))
    (images / "a.PNG").write_bytes(b"")
    with pytest.raises(UserError, match="a.PNG cannot be read"):
        list(read(pair(images, masks)))
    (masks / "b.png").unlink()
    with pytest.raises(UserError, match="lacks the mask of b.jpg"):
        pair(images, masks)
