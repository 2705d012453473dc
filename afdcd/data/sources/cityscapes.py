"""Cityscapes: 19 classes of street scenes at 1024x2048, 2975 + 500 finely labelled images.

Cordts et al.: The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016; label ids and their
map to train ids as in the official scripts (`labels.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from afdcd.config import IGNORE_INDEX
from afdcd.data.sources.official import Official, Pairs, partners

LABELS = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
"""Class -> (label id, colour), in the order of the train ids."""

IDS = 34
"""Label ids run from 0 to 33; what is no class is ignored."""


Masks = Literal["label_ids", "train_ids"]

FILES: dict[Masks, str] = {
    "label_ids": "_gtFine_labelIds.png",
    "train_ids": "_gtFine_labelTrainIds.png",
}


class Cityscapes(Official):
    """The fine annotations; masks hold the 34 label ids, or the 19 train ids that official scripts write."""

    name = "cityscapes"
    classes = tuple(LABELS)
    palette = tuple(colour for _, colour in LABELS.values())
    licence = (
        "Cityscapes: research, teaching and personal use only, no redistribution (its licence agreement)"
    )
    counts = {"train": 2975, "val": 500}
    remedy = (
        "log in at cityscapes-dataset.com, get leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, and "
        "unpack both there"
    )

    def __init__(self, root: Path, *, seed: int, holdout: int, partial: bool, masks: Masks) -> None:
        """As for every official set; `masks` says which of the two files of an image is read."""
        super().__init__(root, seed=seed, holdout=holdout, partial=partial)
        self.masks = masks
        raw = [raw for raw, _ in LABELS.values()] if masks == "label_ids" else list(range(len(LABELS)))
        self.label_map = np.full(256, IGNORE_INDEX, dtype=np.uint8)
        self.label_map[raw] = np.arange(len(LABELS))
        self.valid_ids = frozenset({*(range(IDS) if masks == "label_ids" else raw), IGNORE_INDEX})

    def listed(self, split: str) -> Pairs:
        """leftImg8bit/<split>/<city>/*_leftImg8bit.png with gtFine/<split>/<city>/*_gtFine_labelIds.png."""
        images, masks = self.folder("leftImg8bit", split), self.folder("gtFine", split)
        return partners(images, masks, "_leftImg8bit.png", FILES[self.masks])
