"""COCO-Stuff-164K: 171 classes of things and stuff, 118287 + 5000 images.

Caesar, Uijlings, Ferrari: COCO-Stuff: Thing and Stuff Classes in Context, CVPR 2018. Raw ids run from 0 to
181; eleven of the things among them never occur. The released code of Af-DCD and CIRKD gives its networks
outputs for these too, and counts each with an IoU of 0; `unused: true` trains with all 182. Our score leaves
out classes without a pixel anywhere, so multiply ours by 171/182 before comparing it with a released mean.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from afdcd.config import IGNORE_INDEX
from afdcd.data.sources.folder import palette
from afdcd.data.sources.official import Official, Pairs, partners

UNUSED = {
    11: "street sign",
    25: "hat",
    28: "shoe",
    29: "eye glasses",
    44: "plate",
    65: "mirror",
    67: "window",
    68: "desk",
    70: "door",
    82: "blender",
    90: "hair brush",
}
"""Raw id -> name of the things that COCO never labelled."""

USED = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *(
        "elephant",
        "bear",
        "zebra",
        "giraffe",
        "backpack",
        "umbrella",
        "handbag",
        "tie",
        "suitcase",
        "frisbee",
    ),
    *(
        "skis",
        "snowboard",
        "sports ball",
        "kite",
        "baseball bat",
        "baseball glove",
        "skateboard",
        "surfboard",
    ),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard"),
    *("cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase"),
    *("scissors", "teddy bear", "hair drier", "toothbrush", "banner", "blanket", "branch", "bridge"),
    *("building-other", "bush", "cabinet", "cage", "cardboard", "carpet", "ceiling-other", "ceiling-tile"),
    *("cloth", "clothes", "clouds", "counter", "cupboard", "curtain", "desk-stuff", "dirt", "door-stuff"),
    *("fence", "floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood", "flower", "fog"),
    *("food-other", "fruit", "furniture-other", "grass", "gravel", "ground-other", "hill", "house", "leaves"),
    *(
        "light",
        "mat",
        "metal",
        "mirror-stuff",
        "moss",
        "mountain",
        "mud",
        "napkin",
        "net",
        "paper",
        "pavement",
    ),
    *("pillow", "plant-other", "plastic", "platform", "playingfield", "railing", "railroad", "river", "road"),
    *(
        "rock",
        "roof",
        "rug",
        "salad",
        "sand",
        "sea",
        "shelf",
        "sky-other",
        "skyscraper",
        "snow",
        "solid-other",
    ),
    *("stairs", "stone", "straw", "structural-other", "table", "tent", "textile-other", "towel", "tree"),
    *("vegetable", "wall-brick", "wall-concrete", "wall-other", "wall-panel", "wall-stone", "wall-tile"),
    *("wall-wood", "water-other", "waterdrops", "window-blind", "window-other", "wood"),
)
"""The classes that occur, in the order of their raw ids."""

RAW_IDS = 182


class CocoStuff(Official):
    """Masks (stuffthingmaps) hold raw ids 0 to 181, and 255 for what is ignored."""

    name = "coco_stuff"
    valid_ids = frozenset({*range(RAW_IDS), IGNORE_INDEX})
    licence = "COCO-Stuff: annotations CC BY 4.0; photographs from Flickr under their own terms"
    counts = {"train": 118287, "val": 5000}
    remedy = (
        "unpack train2017.zip and val2017.zip of COCO (cocodataset.org) into images, and the folders of "
        "stuffthingmaps_trainval2017.zip (COCO-Stuff's page) into annotations"
    )

    def __init__(self, root: Path, *, seed: int, holdout: int, partial: bool, unused: bool) -> None:
        """As for every official set; `unused` keeps outputs for the 11 classes that never occur."""
        if unused:
            self.name = "coco_stuff_182"
        super().__init__(root, seed=seed, holdout=holdout, partial=partial)
        names = iter(USED)
        raw = {index: UNUSED[index] if index in UNUSED else next(names) for index in range(RAW_IDS)}
        kept = [index for index in raw if unused or index not in UNUSED]
        self.classes = tuple(raw[index] for index in kept)
        self.palette = palette(len(kept))
        self.label_map = np.full(256, IGNORE_INDEX, dtype=np.uint8)
        self.label_map[kept] = np.arange(len(kept))

    def listed(self, split: str) -> Pairs:
        """images/<split>2017/*.jpg with annotations/<split>2017/*.png."""
        images, masks = (self.folder(part, f"{split}2017") for part in ("images", "annotations"))
        return partners(images, masks, ".jpg", ".png")
