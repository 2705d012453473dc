"""Own images: a folder of photographs and one of masks, each with a sub-folder a split.

Masks hold class numbers (8 bits, grey or palette), or what a file of classes says: ids or colours.
"""

from __future__ import annotations

import colorsys
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from afdcd.config import IGNORE_INDEX
from afdcd.data.masks import UNLISTED, Colour
from afdcd.data.sources import SPLITS, Sample
from afdcd.data.sources.class_file import ClassFile, read_class_file
from afdcd.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MASK_SUFFIXES = (".png",)
IMAGES, MASKS = "images", "masks"

LAYOUT = (
    f"lay it out as {IMAGES}/{{{','.join(SPLITS)}}}/NAME.jpg (or .png) and "
    f"{MASKS}/{{{','.join(SPLITS)}}}/NAME.png"
)

_TONES = ((0.65, 0.95), (0.90, 0.65), (0.40, 0.80))
"""(saturation, value) of one class after the other: neighbours in hue differ in tone."""

_GOLDEN = (5**0.5 - 1) / 2
"""Steps of this part of a circle never meet and spread evenly, whatever their number."""


class Folder:
    """Images of the user's own, with their masks; nested sub-folders become part of the name."""

    name = "folder"
    licence = "the user's own images: their licence is the user's to know, and weights inherit its terms"
    total = 0

    def __init__(
        self, root: Path, *, seed: int, classes: tuple[str, ...] | str, ignored: tuple[int, ...]
    ) -> None:
        """Check the options; of files, only that of the classes is read. `seed` changes nothing.

        Args:
            root: the folder that holds images/ and masks/.
            seed: unused, every source has one.
            classes: names of the mask values 0, 1, 2 ...; or the name of a file below `root` that says which
                ids or colours masks hold (`afdcd.data.sources.class_file`).
            ignored: mask values that take no part, beside 255; a file of classes says them itself.

        Raises:
            UserError: a name, a value or the file is impossible; the message names key or line.
        """
        self.root = root
        if isinstance(classes, str):
            file = _class_file(root, classes, ignored)
        else:
            _check(classes, ignored)
            numbers: dict[int, int | None] = dict.fromkeys(ignored)
            numbers |= {number: number for number in range(len(classes))}
            file = ClassFile(tuple(classes), numbers, None, None, False)
        self.classes = file.classes
        self.palette = file.palette or palette(len(self.classes))
        self.mask_colours: tuple[Colour, ...] | None = file.colours
        self.valid_ids = frozenset(file.ids) | ({UNLISTED} if file.colours is None else frozenset())
        if file.rest:
            self.valid_ids = frozenset(range(256)) if file.colours is None else self.valid_ids | {UNLISTED}
        self.label_map: npt.NDArray[np.uint8] = np.full(256, IGNORE_INDEX, dtype=np.uint8)
        for value, number in file.ids.items():
            self.label_map[value] = IGNORE_INDEX if number is None else number

    def materialise(self, folder: Path, progress: Callable[[int], None]) -> None:
        """Nothing to render."""

    def samples(self, folder: Path) -> Iterator[Sample]:
        """Every image and every mask by its path without suffix; one whose partner is missing is listed too.

        Raises:
            UserError: a folder is missing; the message says which, and how to lay them out.
        """
        self._require_layout()
        for split in SPLITS:
            yield from _pairs(split, self.root / IMAGES / split, self.root / MASKS / split)

    def _require_layout(self) -> None:
        elsewhere = "or set dataset.root to where it is"
        if not self.root.is_dir():
            raise UserError(f"the data root {self.root} is missing: {LAYOUT}, {elsewhere}")
        parts = [Path(part) / split for part in (IMAGES, MASKS) for split in SPLITS]
        missing = [part.as_posix() for part in parts if not (self.root / part).is_dir()]
        if len(missing) < len(parts):
            state = f"lacks {', '.join(missing)}"
        elif (self.root / IMAGES).is_dir() and (self.root / MASKS).is_dir():
            state = f"holds {IMAGES} and {MASKS} that are not divided into splits"
        else:
            state = f"holds no {IMAGES} and {MASKS}"
        if missing:
            raise UserError(f"the data root {self.root} {state}: {LAYOUT}, {elsewhere}")


def palette(classes: int) -> tuple[tuple[int, int, int], ...]:
    """Colours for 0 to 255 classes, no two alike, none near black or white; the same for every data set."""
    colours = []
    for number in range(classes):
        saturation, value = _TONES[number % len(_TONES)]
        red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN % 1.0, saturation, value)
        colours.append((round(red * 255), round(green * 255), round(blue * 255)))
    return tuple(colours)


def _pairs(split: str, images: Path, masks: Path) -> Iterator[Sample]:
    """Images and masks of one split matched by their path without suffix, in sorted order.

    Names are held as text: a hundred thousand paths would take many times the memory.
    """
    labels = {_stem(file): file for file in sorted(relative_files(masks, MASK_SUFFIXES))}
    named = [(_stem(file), file) for file in relative_files(images, IMAGE_SUFFIXES)]
    orphans = labels.keys() - {name for name, _ in named}
    named += [(name, f"{name}.png") for name in orphans]
    named.sort(key=lambda item: (item[0].split("/"), item[1]))
    for name, image in named:
        yield Sample(name, split, images / image, masks / labels.get(name, f"{name}.png"))


def _stem(file: str) -> str:
    return os.path.splitext(file)[0]


def relative_files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Files below `folder` with one of the suffixes, by their path from it with "/".

    Hidden ones are left out, links are followed.
    """
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        start = Path(place).relative_to(folder).as_posix()
        for name in names:
            if not name.startswith(".") and name.lower().endswith(suffixes):
                yield name if start == "." else f"{start}/{name}"


def is_below(name: str) -> bool:
    """Whether a path stays below the folder that it starts from."""
    return bool(name.strip()) and not Path(name).is_absolute() and ".." not in Path(name).parts


def _class_file(root: Path, name: str, ignored: Sequence[int]) -> ClassFile:
    """The file of classes; below the root, where DVC sees that it changes.

    Raises:
        UserError: it lies elsewhere, is missing or cannot be understood, or `ignored` says something too.
    """
    if not is_below(name):
        raise UserError(
            f"dataset.options.classes is {name!r}; give a list of names, or the name of a file of classes "
            "below dataset.root"
        )
    if ignored:
        raise UserError(
            f"dataset.options.ignored is {list(ignored)!r}, and {root / name} says what is ignored: give "
            "each value a line there with the name -, and set ignored to []"
        )
    return read_class_file(root / name)


def _check(classes: Sequence[str], ignored: Sequence[int]) -> None:
    """Refuse classes that cannot be told apart, and ignored values that are none.

    Raises:
        UserError: naming the key in params.yaml and its value.
    """
    if not _all_of(str, classes) or not all(name.strip() for name in classes):
        raise UserError(
            f"dataset.options.classes is {classes!r}; give a list of names, in quotes where YAML asks"
        )
    if not 2 <= len(classes) <= IGNORE_INDEX:
        raise UserError(f"dataset.options.classes has {len(classes)}; give from 2 to {IGNORE_INDEX} names")
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise UserError(f"dataset.options.classes names {', '.join(twice)} twice; each name stands once")
    if not _all_of(int, ignored) or not all(0 <= value <= 255 for value in ignored):
        raise UserError(f"dataset.options.ignored is {ignored!r}; give a list of mask values from 0 to 255")
    for value in ignored:
        if value < len(classes):
            raise UserError(
                f"dataset.options.ignored holds {value}, which is the class {classes[value]!r}: classes are "
                f"numbered from 0, so ignored values start at {len(classes)}; renumber the masks or drop it"
            )


def _all_of(kind: type, values: object) -> bool:
    """Whether `values` is a list of nothing but `kind`; True and False are no numbers here."""
    return isinstance(values, list | tuple) and all(type(value) is kind for value in values)
