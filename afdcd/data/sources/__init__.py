"""Where images come from: one data set a file, each a Source, found by its name in SOURCES."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from afdcd.config import DatasetConfig
from afdcd.data.masks import Colour
from afdcd.plugins import resolve

SOURCES = {
    "streets": "afdcd.data.sources.streets:Streets",
    "camvid": "afdcd.data.sources.camvid:CamVid",
    "cityscapes": "afdcd.data.sources.cityscapes:Cityscapes",
    "voc": "afdcd.data.sources.voc:Voc",
    "ade20k": "afdcd.data.sources.ade20k:Ade20k",
    "coco_stuff": "afdcd.data.sources.coco_stuff:CocoStuff",
    "folder": "afdcd.data.sources.folder:Folder",
}

SPLITS = ("train", "val", "test")
"""Every source fills all three: training learns on train, every choice uses val, the score reads test."""

UNLABELLED = "unlabelled"
"""The split of images without masks, from which recipes may learn whose terms read no labels."""


class Sample(NamedTuple):
    """An image with its mask of raw ids; `prepare` finds out whether the files are there and sound."""

    name: str
    """Unique within its split."""
    split: str
    image: Path
    mask: Path | None
    """None for an image without labels."""


class Source(Protocol):
    """A data set: what its labels mean and where its files lie.

    The constructor reads no image; `X(root, *, seed, **options)` with keyword options that have no defaults.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    """RGB in 0..255, one a class."""
    label_map: npt.NDArray[np.uint8]
    """(256,): raw id -> train id, or 255 for what is ignored and for what may not occur."""
    valid_ids: frozenset[int]
    """Raw ids that a mask may hold; the valid ones that `label_map` sends to 255 are the ignored ones."""
    mask_colours: tuple[Colour, ...] | None
    """The colour that stands in masks for each raw id, 0 first; None where masks hold the ids themselves."""
    licence: str

    @property
    def total(self) -> int:
        """Samples that `materialise` renders; 0 for a set whose files exist already under its root."""
        ...

    def materialise(self, folder: Path, progress: Callable[[int], None]) -> None:
        """Render all samples into `folder`, calling `progress` with the number newly finished.

        What is there already, from a stopped run of the same source, may be left as it is.
        """
        ...

    def samples(self, folder: Path) -> Iterator[Sample]:
        """All samples in a fixed order: rendered ones lie in `folder`, others under the source's root.

        Raises:
            UserError: the root or its layout is missing; the message says what to place where.
        """
        ...


def open_source(config: DatasetConfig) -> Source:
    """The source that `config` names, constructed with its options.

    Raises:
        UserError: there is no such source; the nearest valid name is proposed.
    """
    constructor = resolve(SOURCES, config.name, "dataset")
    source: Source = constructor(Path(config.root), seed=config.seed, **config.options)
    return source
