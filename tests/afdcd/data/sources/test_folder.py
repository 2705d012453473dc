from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts.source import SourceContract
from PIL import Image

from afdcd.config import DatasetConfig
from afdcd.data.manifest import Manifest
from afdcd.data.prepare import prepare
from afdcd.data.sources import SOURCES, open_source
from afdcd.data.sources.folder import Folder, palette
from afdcd.errors import UserError
from afdcd.plugins import checked_options

CLASSES = ("road", "sky", "car")
PLACES = ("train/one.jpg", "train/two.PNG", "val/street/one.jpeg", "val/wood/one.png", "test/a.b.jpg")


def write(root: Path) -> Path:
    """Five images of 6x8, two in sub-folders, whose masks hold 0..2, 254 and 255."""
    rng = np.random.default_rng(5)
    for place in PLACES:
        image, mask = root / "images" / place, (root / "masks" / place).with_suffix(".png")
        for path in (image, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(image)
        Image.fromarray(rng.choice(np.array([0, 1, 2, 254, 255], dtype=np.uint8), (6, 8))).save(mask)
    return root


def opened(root: Path) -> Folder:
    return Folder(root, seed=0, classes=CLASSES, ignored=(254,))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path / "mine")


def names(root: Path) -> list[str]:
    return [f"{sample.split}/{sample.name}" for sample in opened(root).samples(root)]


def prepared(root: Path) -> Manifest:
    folder = root.parent / "prepared"
    prepare(opened(root), root=root, folder=folder, progress=lambda what, total, done: None)
    return Manifest.load(folder)


def complaint(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        prepared(root)
    assert not (root.parent / "prepared").exists()
    return str(caught.value)


class TestFolder(SourceContract):
    def make(self, root: Path) -> Folder:
        return opened(write(root))


def test_samples_are_sorted_and_keep_their_sub_folders(root: Path) -> None:
    (root / "images/train/.trash").mkdir()
    for hidden in ("images/train/._one.jpg", "images/train/.trash/old.jpg", "images/train/notes.txt"):
        (root / hidden).touch()
    samples = list(opened(root).samples(root))
    assert names(root) == ["train/one", "train/two", "val/street/one", "val/wood/one", "test/a.b"]
    assert all(sample.image.is_file() and sample.mask and sample.mask.is_file() for sample in samples)


def test_linked_folders_are_read(root: Path) -> None:
    for part in ("images", "masks"):
        elsewhere = (root / part / "val/wood").rename(root.parent / f"{part} elsewhere")
        (root / part / "val/wood").symlink_to(elsewhere)
    assert "val/wood/one" in names(root)


def test_listed_values_and_255_are_ignored(root: Path) -> None:
    source = opened(root)
    assert source.label_map[:3].tolist() == [0, 1, 2] and (source.label_map[3:] == 255).all()
    assert source.valid_ids == {0, 1, 2, 254, 255}
    manifest = prepared(root)
    entry = manifest.split("train")[0]
    raw = manifest.raw_labels(entry)
    np.testing.assert_array_equal(manifest.labels(entry), np.where(raw < 3, raw, 255))
    assert manifest.info.classes == CLASSES and manifest.info.splits == {"train": 2, "val": 2, "test": 1}


def test_a_palette_tells_255_classes_apart_and_the_first_ones_well() -> None:
    colours = np.array(palette(255))
    assert len({tuple(colour) for colour in colours.tolist()}) == 255
    assert (colours.max(axis=1) >= 160).all() and (colours.min(axis=1) <= 160).all()
    few = colours[:20].astype(float)
    distances = np.linalg.norm(few[:, None] - few[None], axis=-1)[~np.eye(20, dtype=bool)]
    assert distances.min() > 40
    assert palette(3) == palette(20)[:3]


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (None, "is missing: lay it out as images/{train,val,test}"),
        ([], "holds no images and masks: lay it out as"),
        (["images", "masks"], "holds images and masks that are not divided into splits: lay it out as"),
        (
            [f"{part}/{split}" for part in ("images", "masks") for split in ("train", "val")],
            "lacks images/test, masks/test: lay it out as",
        ),
    ],
)
def test_a_wrong_layout_says_what_is_missing_and_how_to_lay_out(
    tmp_path: Path, folders: list[str] | None, said: str
) -> None:
    root = tmp_path / "mine"
    for folder in folders or []:
        (root / folder).mkdir(parents=True)
    if folders is not None:
        root.mkdir(exist_ok=True)
    message = complaint(root)
    assert message.startswith(f"the data root {root} {said}")
    assert "masks/{train,val,test}/NAME.png" in message and "dataset.root" in message


def test_an_empty_split_is_named(root: Path) -> None:
    for part in ("images", "masks"):
        for path in (root / part / "test").iterdir():
            path.unlink()
    assert "the test split is empty" in complaint(root)


@pytest.mark.parametrize("name", ["train/one", "val/street/one", "test/a.b"])
def test_an_image_without_mask_is_named(root: Path, name: str) -> None:
    mask = root / f"masks/{name}.png"
    mask.unlink()
    assert f"has no mask: {mask} is missing" in complaint(root)


def test_a_mask_without_image_is_named(root: Path) -> None:
    (root / "images/val/wood/one.png").unlink()
    message = complaint(root)
    assert f"mask {root}/masks/val/wood/one.png has no image: {root}/images/val/wood/one.png" in message


def test_two_images_for_one_mask_are_named(root: Path) -> None:
    Image.new("RGB", (8, 6)).save(root / "images/train/one.png")
    assert "2 images of the train split are named 'one'; keep one" in complaint(root)


def test_a_label_out_of_range_is_named_with_what_is_possible(root: Path) -> None:
    Image.fromarray(np.full((6, 8), 37, dtype=np.uint8)).save(root / "masks/train/one.png")
    message = complaint(root)
    assert f"label 37 in {root}/masks/train/one.png; this set has 3 classes" in message
    assert "(ids 0..2; 254, 255 ignored)" in message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": ["road"]}, "classes has 1; give from 2 to 255 names"),
        ({"classes": ["road", "sky", "road"]}, "names road twice"),
        ({"classes": "road"}, "classes is 'road'; give a list of names"),
        ({"classes": ["road", True]}, r"classes is \['road', True\]; give a list of names"),
        ({"classes": ["road", " "]}, "give a list of names"),
        ({"ignored": [256]}, r"ignored is \[256\]; give a list of mask values from 0 to 255"),
        ({"ignored": 254}, "ignored is 254; give a list of mask values"),
        ({"ignored": [1]}, "ignored holds 1, which is the class 'sky'.* ignored values start at 3"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], said: str) -> None:
    given = {"classes": list(CLASSES), "ignored": []} | options
    with pytest.raises(UserError, match=f"dataset.options.*{said}"):
        open_source(DatasetConfig(name="folder", root="anywhere", seed=0, options=given))


def test_options_are_checked_without_importing() -> None:
    options = {"seed": 0, "classes": ["road", "sky"], "ignored": [254]}
    checked = checked_options(SOURCES["folder"], options, "dataset.options")
    assert checked == {"seed": 0, "classes": ("road", "sky"), "ignored": (254,)}
    with pytest.raises(UserError, match=r"dataset\.options\.classes\.1 = True: .*valid string"):
        checked_options(SOURCES["folder"], options | {"classes": ["road", True]}, "dataset.options")
