"""One sample opened, compared with what its source promises, counted and hashed; torch-free."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from afdcd.config import IGNORE_INDEX
from afdcd.data.manifest import Row
from afdcd.data.masks import COLOUR_MODES, ID_MODES, UNLISTED, raw_ids, unlisted_colours
from afdcd.data.sources import Sample, Source

IMAGE_MODES = ("RGB", "RGBA", "L", "P")
SHOWN_COLOURS = 3


class FaultError(Exception):
    """Something wrong with one sample; collected, so that the user sees several at once."""


class Checked(NamedTuple):
    """A sound sample."""

    row: Row
    counts: dict[int, int]
    """Raw id -> its pixels; empty without a mask."""


def check(source: Source, sample: Sample, base: Path) -> Checked:
    """Open one sample, compare its sizes and labels with what the source promises, count and hash it.

    Raises:
        FaultError: what is wrong, with the file's name.
    """
    if not sample.image.is_file():
        orphan = f"mask {sample.mask} has no image: " if sample.mask else "image "
        raise FaultError(f"{orphan}{sample.image.with_suffix('')}.png (or .jpg) is missing")
    if sample.mask is not None and not sample.mask.is_file():
        raise FaultError(f"image {sample.image} has no mask: {sample.mask} is missing")
    image, image_hash = _open(sample.image)
    if image.mode not in IMAGE_MODES:
        raise FaultError(f"image {sample.image} has mode {image.mode}; convert it to 8-bit RGB")
    counts: dict[int, int] = {}
    mask_hash = None
    if sample.mask is not None:
        mask, mask_hash = _open(sample.mask)
        counts = _count(source, sample.mask, mask)
        if mask.size != image.size:
            raise FaultError(
                f"sizes differ: image {sample.image} is {_size(image)}, mask {sample.mask} is {_size(mask)}"
            )
    row = Row(
        name=sample.name,
        split=sample.split,
        image=sample.image.relative_to(base).as_posix(),
        mask=None if sample.mask is None else sample.mask.relative_to(base).as_posix(),
        height=image.height,
        width=image.width,
        image_sha256=image_hash,
        mask_sha256=mask_hash,
    )
    return Checked(row, counts)


def _open(path: Path) -> tuple[Image.Image, str]:
    """The decoded image and the hash of its file, from one read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FaultError(f"{path} cannot be read: {error.strerror}") from error
    if not content:
        raise FaultError(f"{path} is empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except UnidentifiedImageError as error:
        raise FaultError(f"{path} is no image that can be read") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FaultError(f"{path} cannot be decoded: {error}") from error
    return image, hashlib.sha256(content).hexdigest()


def _count(source: Source, path: Path, mask: Image.Image) -> dict[int, int]:
    """Pixels of each raw id."""
    if source.mask_colours is None:
        histogram = _histogram_of_ids(path, mask)
    else:
        histogram = _histogram_of_colours(source, path, mask)
    counts = {raw: int(histogram[raw]) for raw in np.flatnonzero(histogram).tolist()}
    if wrong := sorted(counts.keys() - source.valid_ids):
        labels = ("label " if len(wrong) == 1 else "labels ") + _spans(wrong)
        ignored = {raw for raw in source.valid_ids if source.label_map[raw] == IGNORE_INDEX}
        ids = f"ids {_spans(sorted(source.valid_ids - ignored))}; {_spans(sorted(ignored)) or 'none'} ignored"
        raise FaultError(f"{labels} in {path}; this set has {len(source.classes)} classes ({ids})")
    return counts


def _histogram_of_ids(path: Path, mask: Image.Image) -> npt.NDArray[np.int64]:
    if mask.mode not in ID_MODES:
        raise FaultError(f"mask {path} has mode {mask.mode}; class ids need one 8-bit channel (L or P)")
    return np.array(mask.histogram(), dtype=np.int64)


def _histogram_of_colours(source: Source, path: Path, mask: Image.Image) -> npt.NDArray[np.int64]:
    assert source.mask_colours is not None
    if mask.mode not in COLOUR_MODES:
        raise FaultError(f"mask {path} has mode {mask.mode}; colours of classes need 8-bit RGB")
    if mask.mode == "RGBA" and mask.getchannel("A").getextrema() != (255, 255):
        raise FaultError(f"mask {path} is transparent in places; save it as RGB without an alpha channel")
    histogram = np.bincount(raw_ids(mask, source.mask_colours).ravel(), minlength=256)
    if histogram[UNLISTED] and UNLISTED not in source.valid_ids:
        found = unlisted_colours(mask, source.mask_colours, SHOWN_COLOURS + 1)
        shown = ", ".join(",".join(map(str, colour)) for colour in found[:SHOWN_COLOURS])
        more = " and others" if len(found) > SHOWN_COLOURS else ""
        raise FaultError(
            f"{histogram[UNLISTED]} pixels of {path} have colours of no class ({shown}{more}); "
            "list them in the file of classes, or save masks without smoothing or JPEG"
        )
    return histogram


def _size(image: Image.Image) -> str:
    return f"{image.height}x{image.width}"


def _spans(ids: list[int]) -> str:
    """Sorted ids in words: 0..10, 255."""
    spans: list[list[int]] = []
    for number in ids:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}, {b}" if b == a + 1 else f"{a}..{b}" for a, b in spans)


def stamp(sample: Sample) -> str | None:
    """Sizes and times of change of a sample's files; None where one is missing."""
    try:
        found = [path.stat() for path in (sample.image, sample.mask) if path is not None]
    except OSError:
        return None
    return " ".join(f"{file.st_size}:{file.st_mtime_ns}" for file in found)
