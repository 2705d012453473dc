"""Any source becomes one verified manifest: every file is opened, checked, counted and hashed; torch-free."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from afdcd.config import IGNORE_INDEX
from afdcd.data.manifest import INFO, ROWS, DatasetInfo, Row
from afdcd.data.sources import SPLITS, Sample, Source
from afdcd.errors import UserError
from afdcd.files import atomic_folder, write_json, write_text

Progress = Callable[[str, int, int], None]
"""Told (what is being done, how many in all, how many were newly finished)."""

IMAGE_MODES = ("RGB", "RGBA", "L", "P")
MASK_MODES = ("L", "P")
SHOWN_FAULTS = 10


class FaultError(Exception):
    """Something wrong with one sample; collected, so that the user sees several at once."""


class Checked(NamedTuple):
    """A sound sample."""

    row: Row
    histogram: npt.NDArray[np.int64]
    """(256,) pixels of each raw id; all zero without a mask."""


def prepare(source: Source, *, root: Path, folder: Path, progress: Progress) -> DatasetInfo:
    """Render what the source renders, check every sample, and write `folder` in one step.

    The same source gives the same bytes. `root` is where the files of a source that renders nothing lie.

    Raises:
        UserError: the root is missing, or samples are faulty (up to ten are listed); `folder` keeps
            what it held.
    """
    with atomic_folder(folder) as temporary:
        if source.total:
            source.materialise(temporary, lambda done: progress("rendering", source.total, done))
        base = temporary if source.total else root
        checked = _check_all(source, list(source.samples(temporary)), base, progress)
        info = _describe(source, checked, None if source.total else str(root))
        write_json(temporary / INFO, info.model_dump(mode="json"))
        lines = (json.dumps(item.row.model_dump(), sort_keys=True) + "\n" for item in checked)
        write_text(temporary / ROWS, "".join(lines))
    return info


def _check_all(source: Source, samples: list[Sample], base: Path, progress: Progress) -> list[Checked]:
    """Check all samples in threads: decoding and hashing release the interpreter lock."""
    faults = list(_list_faults(source, samples))
    checked: list[Checked] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for result in pool.map(lambda sample: _attempt(source, sample, base), samples):
            progress("checking", len(samples), 1)
            if isinstance(result, Checked):
                checked.append(result)
            else:
                faults.append(str(result))
    if faults:
        more = [f"and {len(faults) - SHOWN_FAULTS} more"] if len(faults) > SHOWN_FAULTS else []
        listed = "\n  ".join(faults[:SHOWN_FAULTS] + more)
        raise UserError(f"{source.name}: mend {len(faults)} fault(s) in the data and run again:\n  {listed}")
    return checked


def _list_faults(source: Source, samples: list[Sample]) -> Iterator[str]:
    """Faults of the listing as a whole: empty splits and names used twice."""
    filled = {sample.split for sample in samples}
    for split in SPLITS:
        if split not in filled:
            yield f"the {split} split is empty; each of {', '.join(SPLITS)} needs at least one image"
    counts = Counter((sample.split, sample.name) for sample in samples)
    for (split, name), count in counts.items():
        if count > 1:
            yield f"{count} images of the {split} split are named {name!r}; keep one"


def _attempt(source: Source, sample: Sample, base: Path) -> Checked | FaultError:
    try:
        return check(source, sample, base)
    except FaultError as fault:
        return fault


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
    histogram = np.zeros(256, dtype=np.int64)
    mask_hash = None
    if sample.mask is not None:
        mask, mask_hash = _open(sample.mask)
        histogram = _count(source, sample.mask, mask)
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
    return Checked(row, histogram)


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


def _count(source: Source, path: Path, mask: Image.Image) -> npt.NDArray[np.int64]:
    """Pixels of each raw id."""
    if mask.mode not in MASK_MODES:
        raise FaultError(f"mask {path} has mode {mask.mode}; class ids need one 8-bit channel (L or P)")
    histogram = np.array(mask.histogram(), dtype=np.int64)
    wrong = sorted(set(np.flatnonzero(histogram).tolist()) - source.valid_ids)
    if wrong:
        labels = ("label " if len(wrong) == 1 else "labels ") + _spans(wrong)
        ignored = {raw for raw in source.valid_ids if source.label_map[raw] == IGNORE_INDEX}
        ids = f"ids {_spans(sorted(source.valid_ids - ignored))}; {_spans(sorted(ignored)) or 'none'} ignored"
        raise FaultError(f"{labels} in {path}; this set has {len(source.classes)} classes ({ids})")
    return histogram


def _describe(source: Source, checked: list[Checked], root: str | None) -> DatasetInfo:
    """The set as a whole: counts by split and class."""
    classes = len(source.classes)
    splits = Counter(item.row.split for item in checked)
    pixels = {split: np.zeros(classes, dtype=np.int64) for split in splits}
    image_pixels = {split: np.zeros(classes, dtype=np.int64) for split in splits}
    ignored = dict.fromkeys(splits, 0)
    for row, histogram in checked:
        counts = np.bincount(source.label_map, weights=histogram, minlength=256).astype(np.int64)
        pixels[row.split] += counts[:classes]
        image_pixels[row.split] += (counts[:classes] > 0) * histogram.sum()
        ignored[row.split] += int(counts[IGNORE_INDEX])
    if not pixels["train"].any():
        raise UserError(f"{source.name}: no pixel of the train split is labelled; check its masks")
    return DatasetInfo(
        name=source.name,
        classes=source.classes,
        palette=source.palette,
        label_map=tuple(source.label_map.tolist()),
        ignore_index=IGNORE_INDEX,
        licence=source.licence,
        root=root,
        splits=dict(splits),
        class_pixels={split: counts.tolist() for split, counts in pixels.items()},
        class_image_pixels={split: counts.tolist() for split, counts in image_pixels.items()},
        ignored_pixels=ignored,
    )


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
