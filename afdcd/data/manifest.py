"""What prepare leaves and everything later reads: samples, classes and label map; torch-free."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import ValidationError

from afdcd.config import Config
from afdcd.data.masks import Colour, raw_ids
from afdcd.errors import UserError
from afdcd.files import read_json

Pixels = npt.NDArray[np.uint8]
ClassWeights = Literal["none", "log", "median"]

INFO = "dataset.json"
ROWS = "manifest.jsonl"
AGAIN = "run `dvc repro prepare`"


class DatasetInfo(Config):
    """What a data set is; counts are in pixels of its own masks and one list entry a class."""

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    label_map: tuple[int, ...]
    ignore_index: int
    mask_colours: tuple[Colour, ...] | None
    """The colour that stands in masks for each raw id; None where masks hold the ids themselves."""
    licence: str
    root: str | None
    """Folder that the rows' paths start from; None where they start from the prepared folder."""
    splits: dict[str, int]
    class_pixels: dict[str, list[int]]
    class_image_pixels: dict[str, list[int]]
    """All pixels of the images in which the class occurs."""
    ignored_pixels: dict[str, int]

    @classmethod
    def load(cls, folder: Path) -> DatasetInfo:
        """Read dataset.json of a prepared folder.

        Raises:
            UserError: the file is missing or does not fit.
        """
        value = read_json(folder / INFO)
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise _foreign(folder / INFO, error) from error


class Row(Config):
    """A line of the manifest; paths start from `DatasetInfo.root`."""

    name: str
    split: str
    image: str
    mask: str | None
    height: int
    width: int
    image_sha256: str
    mask_sha256: str | None


class Entry(NamedTuple):
    """A sample with its paths as they can be opened; sizes in pixels; hashes of the files' bytes."""

    name: str
    split: str
    image: Path
    mask: Path | None
    height: int
    width: int
    image_sha256: str
    mask_sha256: str | None


class Manifest:
    """The prepared data set: its description, its samples, and their pixels on request."""

    def __init__(self, folder: Path, info: DatasetInfo, entries: list[Entry], sha256: str) -> None:
        self.folder = folder
        self.info = info
        self.entries = entries
        self.sha256 = sha256
        """Of both files, image and mask hashes included."""
        self.label_map: Pixels = np.array(info.label_map, dtype=np.uint8)

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read a prepared folder; relative roots start from the working folder.

        Raises:
            UserError: a file is missing or broken.
        """
        info = DatasetInfo.load(folder)
        base = folder if info.root is None else Path(info.root)
        try:
            text = (folder / ROWS).read_bytes()
            rows = [Row.model_validate_json(line) for line in text.splitlines()]
        except FileNotFoundError as error:
            raise UserError(f"{folder / ROWS} is missing; {AGAIN}") from error
        except ValidationError as error:
            raise _foreign(folder / ROWS, error) from error
        digest = hashlib.sha256((folder / INFO).read_bytes() + text).hexdigest()
        return cls(folder, info, [_entry(row, base) for row in rows], digest)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.info.classes)

    def split(self, name: str) -> list[Entry]:
        """The samples of a split, in the manifest's order.

        Raises:
            UserError: there are none.
        """
        entries = [entry for entry in self.entries if entry.split == name]
        if not entries:
            known = ", ".join(self.info.splits)
            raise UserError(f"{self.folder / ROWS} has no split {name!r}; it has {known}")
        return entries

    def image(self, entry: Entry) -> Pixels:
        """RGB of a sample, (H, W, 3).

        Raises:
            UserError: the file cannot be read any more.
        """
        return decode_image(entry.image, entry.image)

    def raw_labels(self, entry: Entry) -> Pixels:
        """Raw ids of a sample as its mask says them, (H, W).

        Raises:
            UserError: the sample has no mask, or the file cannot be read any more.
        """
        if entry.mask is None:
            raise UserError(f"{entry.image} has no labels; {entry.split!r} can be used only without them")
        return decode_mask(entry.mask, entry.mask, self.info.mask_colours)

    def labels(self, entry: Entry) -> Pixels:
        """Train ids of a sample, (H, W); 255 is ignored.

        Raises:
            UserError: the sample has no mask, or the file cannot be read any more.
        """
        return self.label_map[self.raw_labels(entry)]

    def class_weights(self, kind: ClassWeights) -> npt.NDArray[np.float64] | None:
        """Weights (K,) for a loss, of mean 1 under the frequencies of the train split; None for "none".

        "log" is 1 / log(1.1 + frequency) (ENet, Paszke et al. 2016, with c = 1.1); "median" is the median
        frequency over the class's own, both counted in the images that show the class (Eigen and Fergus 2015,
        section 6.3.2).
        A class that the train split lacks gets the greatest weight of the others.
        """
        if kind == "none":
            return None
        pixels = np.array(self.info.class_pixels["train"], dtype=np.float64)
        frequency = pixels / pixels.sum()
        present = pixels > 0
        if kind == "log":
            weights = 1.0 / np.log(1.1 + frequency)
        else:
            shown_in = np.array(self.info.class_image_pixels["train"], dtype=np.float64)
            seen = pixels[present] / shown_in[present]
            weights = np.zeros_like(frequency)
            weights[present] = np.median(seen) / seen
        weights[~present] = weights[present].max()
        normalised: npt.NDArray[np.float64] = weights / (weights * frequency).sum()
        return normalised


def evaluation_samples(
    manifest: Manifest, split: str, limit: int | None = None
) -> Iterator[tuple[Entry, Pixels, Pixels]]:
    """Entry, image (H, W, 3) and train ids (H, W) of the first `limit` samples of a split, or of all.

    Raises:
        UserError: the split is empty, or a file cannot be read any more.
    """
    for entry in manifest.split(split)[:limit]:
        yield entry, manifest.image(entry), manifest.labels(entry)


def _entry(row: Row, base: Path) -> Entry:
    mask = None if row.mask is None else base / row.mask
    hashes = row.image_sha256, row.mask_sha256
    return Entry(row.name, row.split, base / row.image, mask, row.height, row.width, *hashes)


def decode_image(path: Path, content: Path | BinaryIO) -> Pixels:
    """RGB (H, W, 3) of `content`, the file `path` or what was read of it.

    Raises:
        UserError: it cannot be read any more.
    """
    with _opened(path, content) as image:
        return np.asarray(image.convert("RGB"), dtype=np.uint8)


def decode_mask(path: Path, content: Path | BinaryIO, colours: tuple[Colour, ...] | None) -> Pixels:
    """Raw ids (H, W) of `content`, the file `path` or what was read of it; `colours` as in DatasetInfo.

    Raises:
        UserError: it cannot be read any more.
    """
    with _opened(path, content) as image:
        return raw_ids(image, colours)


@contextmanager
def _opened(path: Path, content: Path | BinaryIO) -> Iterator[Image.Image]:
    try:
        with Image.open(content) as image:
            yield image
    except (OSError, SyntaxError) as error:
        raise vanished(path) from error


def vanished(path: Path) -> UserError:
    """What is said of a file that is not there any more, or not as it was."""
    return UserError(f"{path} could be read by prepare and cannot be read now; {AGAIN}")


def _foreign(path: Path, error: ValidationError) -> UserError:
    detail = error.errors()[0]
    where = ".".join(str(part) for part in detail["loc"])
    return UserError(f"{path} is not what prepare writes ({where}: {detail['msg']}); {AGAIN}")
