"""The benchmarks in their official layouts, written small by the tests; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts.source import SourceContract
from official_layouts import SIZE, WRITERS, save, write_ade20k, write_cityscapes, write_coco, write_voc
from PIL import Image

from afdcd.data.manifest import Manifest
from afdcd.data.prepare import prepare
from afdcd.data.sources.ade20k import Ade20k
from afdcd.data.sources.cityscapes import Cityscapes
from afdcd.data.sources.coco_stuff import UNUSED, CocoStuff
from afdcd.data.sources.official import Official
from afdcd.data.sources.voc import Voc
from afdcd.data.streets import CLASSES, render
from afdcd.errors import UserError


def opened(kind: type[Official], root: Path, **options: Any) -> Official:
    values: dict[str, Any] = {"seed": 0, "holdout": 2, "partial": True, **options}
    if kind is CocoStuff:
        values.setdefault("unused", False)
    if kind is Cityscapes:
        values.setdefault("masks", "label_ids")
    return kind(root, **values)


class TestCityscapes(SourceContract):
    def make(self, root: Path) -> Official:
        write_cityscapes(root)
        return opened(Cityscapes, root)


class TestCityscapesByTrainIds(SourceContract):
    def make(self, root: Path) -> Official:
        write_cityscapes(root)
        return opened(Cityscapes, root, masks="train_ids")


class TestVoc(SourceContract):
    def make(self, root: Path) -> Official:
        write_voc(root)
        return opened(Voc, root)


class TestAde20k(SourceContract):
    def make(self, root: Path) -> Official:
        write_ade20k(root)
        return opened(Ade20k, root)


class TestCocoStuff(SourceContract):
    def make(self, root: Path) -> Official:
        write_coco(root)
        return opened(CocoStuff, root)


class TestCocoStuffWithUnused(SourceContract):
    def make(self, root: Path) -> Official:
        write_coco(root)
        return opened(CocoStuff, root, unused=True)


def test_the_known_numbers_of_classes_and_their_maps(tmp_path: Path) -> None:
    city = opened(Cityscapes, tmp_path)
    assert [int(city.label_map[raw]) for raw in (7, 8, 11, 17, 19, 28, 31, 33)] == [0, 1, 2, 5, 6, 15, 16, 18]
    assert {int(city.label_map[raw]) for raw in (0, 9, 14, 18, 29, 30, 255)} == {255}
    ade = opened(Ade20k, tmp_path)
    assert len(ade.classes) == 150 and ade.label_map[[0, 1, 150]].tolist() == [255, 0, 149]
    coco = opened(CocoStuff, tmp_path)
    assert len(coco.classes) == 171
    assert coco.label_map[[10, 12, 24, 26, 45, 181]].tolist() == [10, 11, 23, 24, 40, 170]
    assert coco.label_map[list(UNUSED)].tolist() == [255] * 11
    assert (coco.classes[0], coco.classes[79], coco.classes[80], coco.classes[170]) == (
        *("person", "toothbrush"),
        *("banner", "wood"),
    )
    parity = opened(CocoStuff, tmp_path, unused=True)
    assert len(parity.classes) == 182 and parity.label_map[:182].tolist() == list(range(182))
    voc = opened(Voc, tmp_path)
    assert len(voc.classes) == 21 and voc.palette[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert voc.palette[15] == (192, 128, 128) and voc.palette[20] == (0, 64, 128)


@pytest.mark.parametrize("kind", WRITERS)
def test_from_the_layout_to_the_manifest_ids_are_the_ones_written(
    kind: type[Official], tmp_path: Path
) -> None:
    WRITERS[kind](tmp_path / "root")
    source = opened(kind, tmp_path / "root")
    info = prepare(source, root=tmp_path / "root", folder=tmp_path / "prepared", progress=lambda *told: None)
    assert info.splits == {"train": 4, "val": 2, "test": 3}
    manifest = Manifest.load(tmp_path / "prepared")
    for entry in manifest.entries:
        assert entry.mask is not None
        raw = np.asarray(Image.open(entry.mask))
        assert np.array_equal(manifest.raw_labels(entry), raw)
        assert np.array_equal(manifest.labels(entry), source.label_map[raw])
    assert [entry.name for entry in manifest.split("test")] == [pair.name for pair in source.listed("val")]


CITY_IDS = {
    **{"sky": 23, "building": 11, "pole": 17, "road": 7, "pavement": 8, "tree": 21},
    **{"signsymbol": 20, "fence": 13, "car": 26, "pedestrian": 24, "bicyclist": 33},
}
"""Cityscapes' raw id of each class of the rendered streets."""


def test_rendered_streets_come_back_through_cityscapes_layout(tmp_path: Path) -> None:
    raw_ids = np.array([CITY_IDS[name] for name in CLASSES[11]], dtype=np.uint8)
    drawn = {}
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            name = f"{split}/town/town_{number:06}_000019"
            scene = image, labels = render(100 * count + number, size=(48, 96), difficulty=0.5, classes=11)
            drawn[f"town_{number:06}_000019", "test" if split == "val" else "train"] = scene
            save(tmp_path / f"root/leftImg8bit/{name}_leftImg8bit.png", image)
            save(tmp_path / f"root/gtFine/{name}_gtFine_labelIds.png", raw_ids[labels])
    source = opened(Cityscapes, tmp_path / "root", holdout=1)
    prepare(source, root=tmp_path / "root", folder=tmp_path / "prepared", progress=lambda *told: None)
    manifest = Manifest.load(tmp_path / "prepared")
    assert len(manifest.entries) == len(drawn)
    for entry in manifest.entries:
        split = "test" if entry.split == "test" else "train"
        image, labels = drawn[Path(entry.name).name, split]
        assert np.array_equal(manifest.image(entry), image)
        assert np.array_equal(manifest.labels(entry), source.label_map[raw_ids[labels]])
        assert len(np.unique(labels)) > 4


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_held_out_is_a_draw_by_the_seed(kind: type[Official], tmp_path: Path) -> None:
    WRITERS[kind](tmp_path)

    def split(name: str, **options: Any) -> list[str]:
        return [s.name for s in opened(kind, tmp_path, **options).samples(tmp_path) if s.split == name]

    assert not set(split("train")) & set(split("val")) and len(split("val")) == 2
    assert {tuple(split("val", seed=seed)) for seed in range(8)} != {tuple(split("val"))}
    assert split("val", holdout=0) == split("test", holdout=0) == split("test")
    assert len(split("train", holdout=0)) == 6


@pytest.mark.parametrize("kind", WRITERS)
def test_other_counts_than_the_official_ones_are_told(kind: type[Official], tmp_path: Path) -> None:
    WRITERS[kind](tmp_path)
    official = kind.counts["train"]
    with pytest.raises(
        UserError, match=rf"6 images of train, officially they are {official}; .*partial=true"
    ):
        list(opened(kind, tmp_path, partial=False).samples(tmp_path))
    with pytest.raises(UserError, match="holdout is 6 of 6"):
        list(opened(kind, tmp_path, holdout=6).samples(tmp_path))
    with pytest.raises(UserError, match=f"has {official} training images, give fewer"):
        opened(kind, tmp_path, holdout=official, partial=False)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_missing_root_says_what_to_get_where(kind: type[Official], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{kind.name}: .*is missing: .*(get|unpack) .*dataset.root"):
        list(opened(kind, tmp_path / "nowhere").samples(tmp_path))


def fault_of(tmp_path: Path, kind: type[Official]) -> str:
    with pytest.raises(UserError) as refused:
        source = opened(kind, tmp_path / "root")
        prepare(source, root=tmp_path / "root", folder=tmp_path / "prepared", progress=lambda *told: None)
    assert not (tmp_path / "prepared").exists()
    return str(refused.value)


def test_faults_in_an_official_layout_are_named(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_ade20k(root)
    training = root / "annotations/training"
    names = sorted(path.name for path in training.iterdir())
    (training / names[0]).unlink()
    save(training / names[1], np.zeros((*SIZE, 3), dtype=np.uint8))
    save(training / names[2], np.full(SIZE, 151, dtype=np.uint8))
    Image.fromarray(np.zeros(SIZE, dtype=np.uint16)).save(training / names[3])
    photograph = root / "images/training" / names[4].replace(".png", ".jpg")
    photograph.write_bytes(photograph.read_bytes()[:200])
    save(training / names[5].upper().replace("PNG", "png"), np.zeros(SIZE, dtype=np.uint8))
    said = fault_of(tmp_path, Ade20k)
    for name, reason in (
        (names[0], "is missing"),
        (names[1], "mode RGB"),
        (names[2], "label 151"),
        (names[3], "mode I;16"),
        (photograph.name, "cannot be decoded"),
        (names[5].upper().replace("PNG", "png"), "has no image"),
    ):
        assert any(name in line and reason in line for line in said.splitlines()), (name, said)


def test_an_image_that_a_list_names_twice_is_refused(tmp_path: Path) -> None:
    write_voc(tmp_path / "root")
    path = tmp_path / "root/ImageSets/Segmentation/trainaug.txt"
    path.write_text(path.read_text() + "200_000001\n")
    assert "names 200_000001 twice in train" in fault_of(tmp_path, Voc)


def test_train_ids_and_label_ids_of_cityscapes_say_the_same(tmp_path: Path) -> None:
    write_cityscapes(tmp_path / "root")
    found = []
    for masks in ("label_ids", "train_ids"):
        source = opened(Cityscapes, tmp_path / "root", masks=masks)
        prepare(source, root=tmp_path / "root", folder=tmp_path / masks, progress=lambda *told: None)
        found.append(Manifest.load(tmp_path / masks))
    for one, two in zip(found[0].entries, found[1].entries, strict=True):
        assert one.name == two.name and one.mask != two.mask
        np.testing.assert_array_equal(found[0].labels(one), found[1].labels(two))
    (tmp_path / "root/gtFine/val/city0/city0_000000_000019_gtFine_labelTrainIds.png").unlink()
    with pytest.raises(UserError, match="has no mask: .*labelTrainIds.png is missing"):
        source = opened(Cityscapes, tmp_path / "root", masks="train_ids")
        prepare(source, root=tmp_path / "root", folder=tmp_path / "other", progress=lambda *told: None)


def test_links_are_followed(tmp_path: Path) -> None:
    write_coco(tmp_path / "real")
    (tmp_path / "root").mkdir()
    for part in ("images", "annotations"):
        (tmp_path / "root" / part).symlink_to(tmp_path / "real" / part)
    assert len(list(opened(CocoStuff, tmp_path / "root").samples(tmp_path))) == 9


def test_voc_without_its_list_takes_all_that_val_does_not_name(tmp_path: Path) -> None:
    write_voc(tmp_path)
    before = list(opened(Voc, tmp_path).samples(tmp_path))
    (tmp_path / "ImageSets/Segmentation/trainaug.txt").unlink()
    assert list(opened(Voc, tmp_path).samples(tmp_path)) == before
