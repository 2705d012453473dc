"""ADE20K as in the scene parsing challenge: 150 classes, 20210 + 2000 images.

Zhou et al.: Scene Parsing through ADE20K Dataset, CVPR 2017.
"""

from __future__ import annotations

import numpy as np

from afdcd.config import IGNORE_INDEX
from afdcd.data.sources.folder import palette
from afdcd.data.sources.official import Official, Pairs, partners

FOLDERS = {"train": "training", "val": "validation"}


class Ade20k(Official):
    """Scenes in and out of doors; masks hold 1 to 150, and 0 for everything else, which is ignored."""

    name = "ade20k"
    classes = (
        *("wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass"),
        *("cabinet", "sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair"),
        *("car", "water", "painting", "sofa", "shelf", "house", "sea", "mirror", "rug", "field", "armchair"),
        *(
            "seat",
            "fence",
            "desk",
            "rock",
            "wardrobe",
            "lamp",
            "bathtub",
            "railing",
            "cushion",
            "base",
            "box",
        ),
        *("column", "signboard", "chest of drawers", "counter", "sand", "sink", "skyscraper", "fireplace"),
        *("refrigerator", "grandstand", "path", "stairs", "runway", "case", "pool table", "pillow"),
        *("screen door", "stairway", "river", "bridge", "bookcase", "blind", "coffee table", "toilet"),
        *("flower", "book", "hill", "bench", "countertop", "stove", "palm", "kitchen island", "computer"),
        *(
            "swivel chair",
            "boat",
            "bar",
            "arcade machine",
            "hovel",
            "bus",
            "towel",
            "light",
            "truck",
            "tower",
        ),
        *("chandelier", "awning", "streetlight", "booth", "television receiver", "airplane", "dirt track"),
        *(
            "apparel",
            "pole",
            "land",
            "bannister",
            "escalator",
            "ottoman",
            "bottle",
            "buffet",
            "poster",
            "stage",
        ),
        *(
            "van",
            "ship",
            "fountain",
            "conveyer belt",
            "canopy",
            "washer",
            "plaything",
            "swimming pool",
            "stool",
        ),
        *(
            "barrel",
            "basket",
            "waterfall",
            "tent",
            "bag",
            "minibike",
            "cradle",
            "oven",
            "ball",
            "food",
            "step",
        ),
        *("tank", "trade name", "microwave", "pot", "animal", "bicycle", "lake", "dishwasher", "screen"),
        *("blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan", "fan", "pier"),
        *("crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass", "clock", "flag"),
    )
    palette = palette(len(classes))
    label_map = np.full(256, IGNORE_INDEX, dtype=np.uint8)
    label_map[1 : len(classes) + 1] = np.arange(len(classes))
    valid_ids = frozenset({*range(len(classes) + 1), IGNORE_INDEX})
    licence = "ADE20K: annotations BSD-3, images for non-commercial research and education"
    counts = {"train": 20210, "val": 2000}
    remedy = (
        "get ADEChallengeData2016.zip from the scene parsing challenge (sceneparsing.csail.mit.edu), unpack "
        "it, and set dataset.root to its folder ADEChallengeData2016"
    )

    def listed(self, split: str) -> Pairs:
        """images/<training|validation>/*.jpg with annotations/<training|validation>/*.png."""
        images, masks = (self.folder(part, FOLDERS[split]) for part in ("images", "annotations"))
        return partners(images, masks, ".jpg", ".png")
