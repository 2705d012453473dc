"""The layouts of the benchmarks and of own images, with a few small images each; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from afdcd.data.sources.ade20k import Ade20k
from afdcd.data.sources.cityscapes import Cityscapes
from afdcd.data.sources.coco_stuff import UNUSED, CocoStuff
from afdcd.data.sources.official import Official
from afdcd.data.sources.voc import Voc

COUNTS = {"train": 6, "val": 3}
SIZE = (8, 12)

TRAIN_IDS = np.full(256, 255, dtype=np.uint8)
TRAIN_IDS[[7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]] = range(19)


def save(path: Path, pixels: np.ndarray[Any, Any], mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette([value for index in range(256) for value in (index, 0, 255 - index)])
    image.save(path)


def pictures(
    raw: list[int], count: int, seed: int, size: tuple[int, int]
) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    random = np.random.default_rng(seed)
    return [
        (
            random.integers(0, 256, (*size, 3), dtype=np.uint8),
            random.choice(np.array(raw, dtype=np.uint8), size),
        )
        for _ in range(count)
    ]


def write_cityscapes(root: Path, size: tuple[int, int] = SIZE) -> None:
    for seed, (split, count) in enumerate(COUNTS.items()):
        for index, (image, mask) in enumerate(pictures([*range(34)], count, seed, size)):
            name = f"{split}/city{index % 2}/city{index % 2}_{index:06}_000019"
            save(root / f"leftImg8bit/{name}_leftImg8bit.png", image)
            save(root / f"gtFine/{name}_gtFine_labelIds.png", mask)
            save(root / f"gtFine/{name}_gtFine_labelTrainIds.png", TRAIN_IDS[mask])
            save(root / f"gtFine/{name}_gtFine_instanceIds.png", mask)


def write_voc(root: Path, size: tuple[int, int] = SIZE) -> None:
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for seed, (split, count) in enumerate(COUNTS.items()):
        names = [f"20{seed}_{index:06}" for index in range(count)]
        for name, (image, mask) in zip(names, pictures([*range(21), 255], count, seed, size), strict=True):
            save(root / f"JPEGImages/{name}.jpg", image)
            save(root / f"SegmentationClassAug/{name}.png", mask)
            if split == "val":
                save(root / f"SegmentationClass/{name}.png", mask, "P")
        (lists / ("trainaug.txt" if split == "train" else "val.txt")).write_text("\n".join(names) + "\n")


def write_ade20k(root: Path, size: tuple[int, int] = SIZE) -> None:
    for seed, (split, count) in enumerate({"training": 6, "validation": 3}.items()):
        for index, (image, mask) in enumerate(pictures([*range(151)], count, seed, size)):
            save(root / f"images/{split}/ADE_{split}_{index:08}.jpg", image)
            save(root / f"annotations/{split}/ADE_{split}_{index:08}.png", mask)


def write_coco(root: Path, size: tuple[int, int] = SIZE) -> None:
    known = [raw for raw in range(182) if raw not in UNUSED]
    for seed, (split, count) in enumerate(COUNTS.items()):
        for index, (image, mask) in enumerate(pictures([*known, 255], count, seed, size)):
            save(root / f"images/{split}2017/{index:012}.jpg", image)
            save(root / f"annotations/{split}2017/{index:012}.png", mask)


def write_camvid(root: Path, size: tuple[int, int] = SIZE) -> None:
    """As SegNet's tutorial has them: `train` beside `trainannot`."""
    for seed, (split, count) in enumerate({**COUNTS, "test": 3}.items()):
        for index, (image, mask) in enumerate(pictures([*range(12)], count, seed, size)):
            save(root / f"{split}/{index:03}.png", image)
            save(root / f"{split}annot/{index:03}.png", mask)


COLOURS = {"road": (128, 64, 128), "sky": (70, 130, 180), "car": (0, 0, 142)}


def write_folder(root: Path, size: tuple[int, int] = SIZE) -> None:
    """Own images with masks in colours, and the file that names them."""
    colours = np.array([*COLOURS.values(), (0, 0, 0)], dtype=np.uint8)  # black takes no part
    for seed, (split, count) in enumerate({**COUNTS, "test": 3}.items()):
        for index, (image, mask) in enumerate(pictures([*range(4)], count, seed, size)):
            save(root / f"images/{split}/{index}.png", image)
            save(root / f"masks/{split}/{index}.png", colours[mask])
    lines = [f"{name},{','.join(map(str, colour))}" for name, colour in COLOURS.items()]
    (root / "classes.csv").write_text("\n".join(["name,r,g,b", *lines, "-,0,0,0"]) + "\n", encoding="utf-8")


WRITERS: dict[type[Official], Callable[..., None]] = {
    Cityscapes: write_cityscapes,
    Voc: write_voc,
    Ade20k: write_ade20k,
    CocoStuff: write_coco,
}
