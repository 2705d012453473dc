"""What the public benchmarks share: official counts, and where the split that choices are made on comes from.

Their test labels are withheld, so papers choose and score on the same val images. Here `test` is the official
val split, and `val` a part of train that `holdout` sets aside. With `holdout=0` both are the official val
split, as papers do it: figures compare with theirs, and flatter as theirs do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from afdcd.data.sources import Sample
from afdcd.errors import UserError


class Pair(NamedTuple):
    """An image and its mask as the official layout names them."""

    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class Pairs:
    """Pairs by name, made when they are asked for: names alone are held, paths would take many times as much.

    Attributes:
        names: sorted.
        image: what stands before the name in the path of the image (a folder), and after it (a suffix).
        mask: the same for the mask.
    """

    names: Sequence[str]
    image: tuple[Path, str]
    mask: tuple[Path, str]

    def __len__(self) -> int:
        """How many."""
        return len(self.names)

    def __iter__(self) -> Iterator[Pair]:
        """One after the other."""
        (images, image_suffix), (masks, mask_suffix) = self.image, self.mask
        for name in self.names:
            yield Pair(name, images / f"{name}{image_suffix}", masks / f"{name}{mask_suffix}")


class Official:
    """A benchmark in its official layout; a subclass says where the files lie and what the labels mean.

    Attributes:
        counts: images of the official train and val splits.
        remedy: which files to get where, and how to lay them out.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    label_map: npt.NDArray[np.uint8]
    valid_ids: frozenset[int]
    licence: str
    counts: dict[str, int]
    remedy: str
    total = 0
    mask_colours = None

    def __init__(self, root: Path, *, seed: int, holdout: int, partial: bool) -> None:
        """Check the options; no file is read.

        Args:
            root: the folder of the official layout.
            seed: of the draw that sets training images aside.
            holdout: how many; 0 chooses and scores on the same official val images.
            partial: accept other counts than the official ones.

        Raises:
            UserError: `holdout` is no possible number.
        """
        if holdout < 0 or (holdout >= self.counts["train"] and not partial):
            raise UserError(
                f"dataset.options.holdout is {holdout}; {self.name} has {self.counts['train']} training "
                "images, give fewer, or 0 to choose on the official val split"
            )
        self.root, self.seed, self.holdout, self.partial = root, seed, holdout, partial

    def listed(self, split: str) -> Pairs:
        """Images and masks of the official `train` or `val`, in sorted order.

        Raises:
            UserError: a folder or a list is missing.
        """
        raise NotImplementedError

    def materialise(self, folder: Path, progress: Callable[[int], None]) -> None:
        """Nothing to render."""

    def samples(self, folder: Path) -> Iterator[Sample]:
        """All labelled images: train less what is held out, val, and test.

        Raises:
            UserError: the layout is incomplete, or the counts are not the official ones.
        """
        train, scored = self._counted("train"), self._counted("val")
        if self.holdout >= len(train):
            raise UserError(
                f"{self.name}: dataset.options.holdout is {self.holdout} of {len(train)} training images here"
            )
        aside = set(np.random.default_rng(self.seed).permutation(len(train))[: self.holdout].tolist())
        for index, pair in enumerate(train):
            yield Sample(pair.name, "val" if index in aside else "train", pair.image, pair.mask)
        for split in ("test",) if self.holdout else ("val", "test"):
            yield from (Sample(pair.name, split, pair.image, pair.mask) for pair in scored)

    def _counted(self, split: str) -> Pairs:
        found, official = self.listed(split), self.counts[split]
        if len(found) != official and not self.partial:
            raise UserError(
                f"{self.name}: {self.root} holds {len(found)} images of {split}, officially they are "
                f"{official}; {self.remedy}, or accept what is there: dataset.options.partial=true"
            )
        for name, following in pairwise(found.names):
            if name == following:
                raise UserError(f"{self.name}: {self.root} names {name} twice in {split}; keep one")
        return found

    def folder(self, *parts: str) -> Path:
        """A folder of the layout.

        Raises:
            UserError: it is missing.
        """
        path = self.root.joinpath(*parts)
        if not path.is_dir():
            raise UserError(
                f"{self.name}: {path} is missing: {self.remedy}, or set dataset.root to where it is"
            )
        return path

    def ids(self, *parts: str) -> list[str]:
        """Names that a list of the layout holds, sorted.

        Raises:
            UserError: it is missing.
        """
        path = self.root.joinpath(*parts)
        if not path.is_file():
            raise UserError(
                f"{self.name}: {path} is missing: {self.remedy}, or set dataset.root to where it is"
            )
        return sorted(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())


def partners(images: Path, masks: Path, image_suffix: str, mask_suffix: str) -> Pairs:
    """Images and masks below two folders, matched by their path without suffix; lone ones are listed too."""
    names = set(_stems(images, image_suffix)) | set(_stems(masks, mask_suffix))
    return Pairs(sorted(names), (images, image_suffix), (masks, mask_suffix))


def _stems(folder: Path, suffix: str) -> Iterator[str]:
    """Paths from `folder`, without the suffix, of the files below it that end so; links are followed."""
    for place, _, files in os.walk(folder, followlinks=True):
        start = Path(place).relative_to(folder).as_posix()
        for file in files:
            if file.endswith(suffix):
                name = file.removesuffix(suffix)
                yield name if start == "." else f"{start}/{name}"
