"""Pascal VOC 2012 with the masks of SBD (Aug): 20 object classes and background, 10582 + 1449 images.

Everingham et al.: The PASCAL Visual Object Classes Challenge, IJCV 2015; Hariharan et al.: Semantic Contours
from Inverse Detectors, ICCV 2011.
"""

from __future__ import annotations

import numpy as np

from afdcd.colours import voc_colour
from afdcd.config import IGNORE_INDEX
from afdcd.data.sources.official import Official, Pairs

LISTS = ("ImageSets", "Segmentation")


class Voc(Official):
    """Objects on background; masks hold class numbers as palette or grey values, 255 is ignored."""

    name = "voc"
    classes = (
        *(
            "background",
            "aeroplane",
            "bicycle",
            "bird",
            "boat",
            "bottle",
            "bus",
            "car",
            "cat",
            "chair",
            "cow",
        ),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
        "tvmonitor",
    )
    palette = tuple(voc_colour(index) for index in range(len(classes)))
    label_map = np.full(256, IGNORE_INDEX, dtype=np.uint8)
    label_map[: len(classes)] = np.arange(len(classes))
    valid_ids = frozenset({*range(len(classes)), IGNORE_INDEX})
    licence = "Pascal VOC 2012 and SBD: photographs from Flickr, research use under its terms"
    counts = {"train": 10582, "val": 1449}
    remedy = (
        "unpack VOCtrainval_11-May-2012.tar (torchvision.datasets.VOCSegmentation downloads it) and set "
        "dataset.root to its VOC2012 folder, with SBD's masks as PNG of class numbers in "
        "SegmentationClassAug beside SegmentationClass"
    )

    def listed(self, split: str) -> Pairs:
        """JPEGImages/<id>.jpg; train with SegmentationClassAug, val with SegmentationClass.

        The ids of train are those of trainaug.txt; without that list, all of SegmentationClassAug that
        val.txt does not name.
        """
        images = self.folder("JPEGImages")
        scored = self.ids(*LISTS, "val.txt")
        masks = self.folder("SegmentationClassAug" if split == "train" else "SegmentationClass")
        names = scored
        if split == "train":
            if self.root.joinpath(*LISTS, "trainaug.txt").is_file():
                names = self.ids(*LISTS, "trainaug.txt")
            else:
                names = sorted({path.stem for path in masks.glob("*.png")} - set(scored))
        return Pairs(names, (images, ".jpg"), (masks, ".png"))
