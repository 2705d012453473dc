from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts.source import SourceContract
from PIL import Image

from afdcd.config import DatasetConfig
from afdcd.data.decoded import open_decoded
from afdcd.data.manifest import Manifest
from afdcd.data.masks import Colour
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
        ({"classes": "road"}, "classes names it; write a head"),
        ({"classes": "../road"}, r"classes is '\.\./road'; give a list of names, or the name of a file"),
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
        open_source(DatasetConfig(name="folder", root="anywhere", seed=0, unlabelled=[], options=given))


def test_options_are_checked_without_importing() -> None:
    options = {"seed": 0, "classes": ["road", "sky"], "ignored": [254]}
    checked = checked_options(SOURCES["folder"], options, "dataset.options")
    assert checked == {"seed": 0, "classes": ("road", "sky"), "ignored": (254,)}
    with pytest.raises(UserError, match=r"dataset\.options\.classes\.1 = True: .*valid string"):
        checked_options(SOURCES["folder"], options | {"classes": ["road", True]}, "dataset.options")


COLOURS: dict[str, Colour] = {"road": (128, 64, 128), "sky": (70, 130, 180), "car": (0, 0, 142)}
VOID: Colour = (0, 0, 0)


def write_coloured(root: Path, kind: str = "RGB") -> dict[str, np.ndarray[Any, Any]]:
    """The images of `write` with masks in colours; returns the class numbers that they mean, 255 for void."""
    meant = {}
    table = np.array([*COLOURS.values(), VOID], dtype=np.uint8)
    for place in PLACES:
        path = (write(root) if not meant else root) / "masks" / Path(place).with_suffix(".png")
        raw = np.asarray(Image.open(path)) % 4
        mask = Image.fromarray(table[raw])
        if kind == "P":
            # The palette's entries stand in another order than the classes.
            mask = Image.fromarray((3 - raw).astype(np.uint8), "P")
            mask.putpalette(table[::-1].tobytes())
        mask.convert(kind).save(path)
        meant[Path(place).with_suffix("").as_posix()] = np.where(raw == 3, 255, raw)
    lines = [f"{name},{','.join(map(str, colour))}" for name, colour in COLOURS.items()]
    (root / "classes.csv").write_text("\n".join(["name,r,g,b", *lines, "-,0,0,0"]) + "\n")
    return meant


def described(root: Path, file: str = "classes.csv") -> Folder:
    return Folder(root, seed=0, classes=file, ignored=())


class TestFolderOfColours(SourceContract):
    def make(self, root: Path) -> Folder:
        write_coloured(root)
        return described(root)


def prepared_by_file(root: Path) -> Manifest:
    folder = root.parent / "prepared"
    prepare(described(root), root=root, folder=folder, progress=lambda what, total, done: None)
    return Manifest.load(folder)


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "P"])
def test_colours_become_the_classes_that_the_file_says(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "mine"
    meant = write_coloured(root, kind)
    manifest = prepared_by_file(root)
    assert manifest.info.classes == tuple(COLOURS) and manifest.info.palette == tuple(COLOURS.values())
    for entry in manifest.entries:
        np.testing.assert_array_equal(manifest.labels(entry), meant[f"{entry.split}/{entry.name}"])
    decoded = open_decoded(manifest, tmp_path / "decoded", 1e6)
    assert decoded is not None
    for entry in manifest.split("train"):
        np.testing.assert_array_equal(decoded.sample(entry)[1], manifest.raw_labels(entry))


def test_a_colour_of_no_class_is_named_or_ignored_with_the_rest(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    write_coloured(root)
    mask = np.asarray(Image.open(root / "masks/train/one.png")).copy()
    mask[:2, :3], mask[3, 0] = (128, 64, 127), (9, 9, 9)
    Image.fromarray(mask).save(root / "masks/train/one.png")
    with pytest.raises(
        UserError, match=r"7 pixels of .*one\.png have colours of no class \(128,64,127, 9,9,9\)"
    ):
        prepared_by_file(root)
    with (root / "classes.csv").open("a") as file:
        file.write("-,*\n")
    manifest = prepared_by_file(root)
    labels = manifest.labels(manifest.split("train")[0])
    assert (labels[:2, :3] == 255).all() and labels[3, 0] == 255


@pytest.mark.parametrize("spoilt", ["transparent", "16 bits"])
def test_a_coloured_mask_that_cannot_be_read_exactly_is_refused(tmp_path: Path, spoilt: str) -> None:
    root = tmp_path / "mine"
    write_coloured(root)
    path = root / "masks/val/wood/one.png"
    if spoilt == "transparent":
        mask = Image.open(path).convert("RGBA")
        mask.putpixel((0, 0), (0, 0, 142, 7))
        mask.save(path)
    else:
        Image.fromarray(np.zeros((6, 8), dtype=np.uint16)).save(path)
    said = "is transparent in places" if spoilt == "transparent" else "mode I;16; colours of classes need"
    with pytest.raises(UserError, match=said):
        prepared_by_file(root)


def test_ids_of_a_file_become_classes_several_may_be_one_and_255_may_be_one(tmp_path: Path) -> None:
    root = write(tmp_path / "mine")
    (root / "classes.csv").write_text("name,id\nroad,2\nsky,0\nroad,1\nlight,255\n-,254\n")
    source = described(root)
    assert source.classes == ("road", "sky", "light") and source.valid_ids == {0, 1, 2, 254, 255}
    manifest = prepared_by_file(root)
    entry = manifest.split("test")[0]
    raw = np.asarray(Image.open(root / "masks/test/a.b.png"))
    table = np.full(256, 255)
    table[[0, 1, 2, 255]] = [1, 0, 0, 2]
    np.testing.assert_array_equal(manifest.labels(entry), table[raw])
    (root / "classes.csv").write_text("name,id\nroad,2\nsky,0\n-,*\n")
    assert described(root).valid_ids == set(range(256))
    assert described(root).label_map[[0, 1, 2, 255]].tolist() == [1, 255, 0, 255]


def test_a_file_of_classes_says_itself_what_is_ignored(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ignored is \[254\], and .*classes.csv says what is ignored"):
        Folder(tmp_path, seed=0, classes="classes.csv", ignored=(254,))
