"""Any source becomes one verified manifest: every file is opened, checked, counted and hashed; torch-free.

Samples pass through a window: memory holds the source's listing of names, the few samples in work, and the
counts, but never all samples. With a journal a stopped run goes on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import __version__ as pillow

from afdcd.config import IGNORE_INDEX
from afdcd.data.check import Checked, FaultError, check, stamp
from afdcd.data.journal import Journal, journal_key
from afdcd.data.manifest import INFO, ROWS, DatasetInfo
from afdcd.data.renderings import render_below
from afdcd.data.sources import SPLITS, UNLABELLED, Sample, Source
from afdcd.data.sources.folder import IMAGE_SUFFIXES, is_below, relative_files
from afdcd.errors import UserError
from afdcd.files import atomic_folder, write_json

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Told (what is being done, how many in all, how many were newly finished)."""

SHOWN_FAULTS = 10
WINDOW = 32
"""Samples a thread that are in work or wait for the one before them."""


class Keep(NamedTuple):
    """Where a stopped run goes on: the journal's file, and what its content depends on."""

    path: Path
    code: str
    options: str = ""
    """The data set's options, which rendered pixels depend on."""

    @property
    def renderings(self) -> Path:
        """Where rendered files wait until all are there."""
        return self.path.with_suffix(".rendered")


def prepare(
    source: Source,
    *,
    root: Path,
    folder: Path,
    progress: Progress,
    unlabelled: Sequence[str] = (),
    keep: Keep | None = None,
) -> DatasetInfo:
    """Render what the source renders, check every sample, and write `folder` in one step.

    The same source gives the same bytes. `root` is where the files of a source that renders nothing lie, and
    `unlabelled` names folders below it with images without masks, which become a split of that name.

    Raises:
        UserError: the root is missing, or samples are faulty (up to ten are listed); `folder` keeps
            what it held.
    """
    if source.total and unlabelled:
        raise UserError(
            f"dataset.unlabelled: {source.name} renders its images with labels, so there is nothing to find "
            "in folders; set it to [], or take another data set"
        )
    with atomic_folder(folder) as temporary:
        if source.total:
            _render(source, temporary, progress, keep)
        base = temporary if source.total else root
        journal = (
            None if keep is None or source.total else Journal(keep.path, journal_key(source, root, keep.code))
        )

        def listed() -> Iterator[Sample]:
            return chain(source.samples(temporary), unlabelled_samples(root, unlabelled))

        counts = Counter(sample.split for sample in listed())
        total = counts.total()
        tally = Tally(source, counts)
        try:
            with (temporary / ROWS).open("w", encoding="utf-8") as rows:
                for result in _results(source, listed(), base, journal):
                    progress("checking", total, 1)
                    if tally.add(result) and isinstance(result, Checked):
                        rows.write(json.dumps(result.row.model_dump(), sort_keys=True) + "\n")
        finally:
            if journal is not None:
                journal.close()
        if journal is not None and journal.found:
            logger.info("%d of %d images had been checked before", journal.found, total)
        info = tally.described(None if source.total else str(root))
        write_json(temporary / INFO, info.model_dump(mode="json"))
    if journal is not None:
        journal.remove()
    return info


def _render(source: Source, folder: Path, progress: Progress, keep: Keep | None) -> None:
    def advance(done: int) -> None:
        progress("rendering", source.total, done)

    if keep is None:
        source.materialise(folder, advance)
    else:
        parts = [source.name, keep.options, keep.code, pillow, np.__version__]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        render_below(source, folder, advance, kept=keep.renderings, key=key)


def unlabelled_samples(root: Path, folders: Sequence[str]) -> Iterator[Sample]:
    """Images without masks below some folders of the root, in sorted order; named by their path from it.

    Raises:
        UserError: a folder is missing, or not below the root.
    """
    for name in folders:
        place = root / name
        if not is_below(name):
            raise UserError(f"dataset.unlabelled names {name!r}; give folders below dataset.root, {root}")
        if not place.is_dir():
            raise UserError(
                f"{place} is missing, and dataset.unlabelled names it; put images without masks there"
            )
        for image in sorted(relative_files(place, IMAGE_SUFFIXES)):
            path = place / image
            yield Sample(path.relative_to(root).with_suffix("").as_posix(), UNLABELLED, path, None)


def _results(
    source: Source, samples: Iterator[Sample], base: Path, journal: Journal | None
) -> Iterator[Checked | FaultError]:
    """Each sample's result in the samples' order; threads work, as decoding and hashing free the lock."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    waiting: deque[tuple[str | None, Checked | Future[Checked | FaultError]]] = deque()

    def first() -> Checked | FaultError:
        mark, found = waiting.popleft()
        if isinstance(found, Checked):
            return found
        result = found.result()
        if journal is not None and isinstance(result, Checked):
            journal.add(result, mark)
        return result

    pool = ThreadPoolExecutor(cores)
    try:
        for sample in samples:
            mark = None if journal is None else stamp(sample)
            known = None if journal is None else journal.find(sample, mark)
            waiting.append((mark, known or pool.submit(_attempt, source, sample, base)))
            if len(waiting) >= cores * WINDOW:
                yield first()
        while waiting:
            yield first()
    finally:
        pool.shutdown(cancel_futures=True)


def _attempt(source: Source, sample: Sample, base: Path) -> Checked | FaultError:
    try:
        return check(source, sample, base)
    except FaultError as fault:
        return fault


class Tally:
    """Counts of a set while its samples pass by, and the first of its faults."""

    def __init__(self, source: Source, listed: Counter[str]) -> None:
        """`listed` is how many samples of each split there are, faulty ones too."""
        self.source = source
        self.faults = 0
        self._told: list[str] = []
        self._splits: Counter[str] = Counter()
        self._names: set[bytes] = set()
        self._chosen_on: dict[str, str] = {}
        """Hash of each image of val and test -> its path."""
        classes = len(source.classes)
        self._pixels: dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]] = {}
        self._image_pixels: dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]] = {}
        self._ignored: Counter[str] = Counter()
        self._zeros = np.zeros(classes, dtype=np.int64)
        for split in SPLITS:
            if not listed[split]:
                self._fault(
                    f"the {split} split is empty; each of {', '.join(SPLITS)} needs at least one image"
                )

    def add(self, result: Checked | FaultError) -> bool:
        """Count a sample; whether it is sound."""
        if isinstance(result, FaultError):
            self._fault(str(result))
            return False
        row = result.row
        self._splits[row.split] += 1
        # 16 bytes instead of a path: a set of all names would be the largest thing in memory.
        name = hashlib.blake2b(f"{row.split}/{row.name}".encode(), digest_size=16).digest()
        if name in self._names:
            self._fault(f"2 images of the {row.split} split are named {row.name!r}; keep one")
            return False
        self._names.add(name)
        if row.split in SPLITS[1:]:
            self._chosen_on.setdefault(row.image_sha256, f"{row.split} image {row.image}")
        elif row.split == UNLABELLED and row.image_sha256 in self._chosen_on:
            other = self._chosen_on[row.image_sha256]
            self._fault(f"unlabelled image {row.image} is also the {other}; remove it from the unlabelled")
            return False
        self._count(result)
        return True

    def _fault(self, text: str) -> None:
        self.faults += 1
        if len(self._told) < SHOWN_FAULTS:
            self._told.append(text)

    def _count(self, checked: Checked) -> None:
        split = checked.row.split
        pixels = self._pixels.setdefault(split, self._zeros.copy())
        image_pixels = self._image_pixels.setdefault(split, self._zeros.copy())
        self._ignored.setdefault(split, 0)
        whole = sum(checked.counts.values())
        seen: Counter[int] = Counter()
        for raw, count in checked.counts.items():
            seen[int(self.source.label_map[raw])] += count
        self._ignored[split] += seen.pop(IGNORE_INDEX, 0)
        for number, count in seen.items():
            pixels[number] += count
            image_pixels[number] += whole

    def described(self, root: str | None) -> DatasetInfo:
        """The set as a whole.

        Raises:
            UserError: there were faults, or no pixel of train is labelled.
        """
        source = self.source
        if self.faults:
            more = [f"and {self.faults - SHOWN_FAULTS} more"] if self.faults > SHOWN_FAULTS else []
            listed = "\n  ".join(self._told + more)
            raise UserError(
                f"{source.name}: mend {self.faults} fault(s) in the data and run again:\n  {listed}"
            )
        if not self._pixels["train"].any():
            raise UserError(f"{source.name}: no pixel of the train split is labelled; check its masks")
        return DatasetInfo(
            name=source.name,
            classes=source.classes,
            palette=source.palette,
            label_map=tuple(source.label_map.tolist()),
            ignore_index=IGNORE_INDEX,
            mask_colours=source.mask_colours,
            licence=source.licence,
            root=root,
            splits=dict(self._splits),
            class_pixels={split: counts.tolist() for split, counts in self._pixels.items()},
            class_image_pixels={split: counts.tolist() for split, counts in self._image_pixels.items()},
            ignored_pixels=dict(self._ignored),
        )
