"""Street scenes rendered on the spot: endless, exact, and free to use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from afdcd.config import IGNORE_INDEX
from afdcd.data.sources import SPLITS, Sample
from afdcd.data.streets import CLASSES, PALETTES, ClassCount, render
from afdcd.errors import UserError
from afdcd.files import disk_errors

_CHUNK = 16
"""Scenes that a process renders between two reports."""

_START_UP = 48
"""Scenes that take about as long as starting one more process."""


class Job(NamedTuple):
    """One scene to render: the sample's files, and all that its pixels depend on."""

    sample: Sample
    seed: int
    size: tuple[int, int]
    difficulty: float
    classes: ClassCount


class Streets:
    """A source of rendered scenes; each depends on the seed, its split and its number alone."""

    name = "streets"
    licence = "rendered by this project (Apache-2.0); no material of others"
    mask_colours = None

    def __init__(
        self,
        root: Path,
        *,
        seed: int,
        size: tuple[int, int],
        train: int,
        val: int,
        test: int,
        classes: Literal[9, 11],
        difficulty: float,
    ) -> None:
        """Check the options; nothing is read from `root`.

        Raises:
            UserError: an option is impossible; the message names its key and its value.
        """
        counts = dict(zip(SPLITS, (train, val, test), strict=True))
        _check(seed, size, counts, classes, difficulty)
        self.seed = seed
        self.size = (size[0], size[1])
        self.counts = counts
        self.difficulty = float(difficulty)
        self.class_count: ClassCount = classes
        self.classes = CLASSES[classes]
        self.palette = PALETTES[classes]
        self.valid_ids = frozenset(range(classes))
        self.label_map: npt.NDArray[np.uint8] = np.full(256, IGNORE_INDEX, dtype=np.uint8)
        self.label_map[:classes] = np.arange(classes)

    @property
    def total(self) -> int:
        """How many scenes there are to render."""
        return sum(self.counts.values())

    def samples(self, folder: Path) -> Iterator[Sample]:
        """Every sample as `materialise` writes it below `folder`, split by split."""
        return (job.sample for job in self._jobs(folder))

    def materialise(self, folder: Path, progress: Callable[[int], None]) -> None:
        """Render all scenes below `folder` with a process a core; the files are the same for any number.

        Scenes whose files are there already, from a run that was stopped, are left as they are.

        Raises:
            UserError: the disk is full or not writable, or a process was killed.
        """
        processes = min(_cores(), -(-self.total // _START_UP))
        render_files(list(self._jobs(folder)), processes=processes, progress=progress)

    def _jobs(self, folder: Path) -> Iterator[Job]:
        for place, (split, count) in enumerate(self.counts.items()):
            for index in range(count):
                name = f"{index + 1:05d}"
                image = folder / "images" / split / f"{name}.png"
                mask = folder / "masks" / split / f"{name}.png"
                seed = scene_seed(self.seed, place, index)
                sample = Sample(name, split, image, mask)
                yield Job(sample, seed, self.size, self.difficulty, self.class_count)


def scene_seed(seed: int, split: int, index: int) -> int:
    """The number of a scene: no two (seed, split, index) share one, so splits cannot overlap."""
    return (seed << 34) | (split << 32) | index


def render_files(jobs: list[Job], *, processes: int, progress: Callable[[int], None]) -> None:
    """Render `jobs` into their files, calling `progress` with the number newly finished.

    Raises:
        UserError: the disk is full or not writable, or a process was killed.
    """
    for folder in {path.parent for job in jobs for path in (job.sample.image, job.sample.mask) if path}:
        folder.mkdir(parents=True, exist_ok=True)
    chunks = [jobs[start : start + _CHUNK] for start in range(0, len(jobs), _CHUNK)]
    if processes <= 1:
        for chunk in chunks:
            progress(_render_chunk(chunk))
        return
    # a fresh interpreter each: forking a process that holds threads may hang
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        try:
            for done in as_completed([pool.submit(_render_chunk, chunk) for chunk in chunks]):
                progress(done.result())
        except BrokenProcessPool as error:
            raise UserError(
                "a process that rendered streets was killed, most likely for want of memory; "
                "free some or lower dataset.options.size, and run again"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _render_chunk(jobs: list[Job]) -> int:
    """Render those scenes that have no files yet, write their files, and say how many scenes there were."""
    for job in jobs:
        paths = [path for path in (job.sample.image, job.sample.mask) if path is not None]
        if all(path.exists() for path in paths):
            continue
        scene = render(job.seed, size=job.size, difficulty=job.difficulty, classes=job.classes)
        for path, pixels in zip(paths, scene, strict=False):
            with disk_errors(path):
                # A file of that name is whole: the next run tells by it what is left to render.
                begun = path.with_name(path.name + ".tmp")
                Image.fromarray(pixels).save(begun, format="PNG", compress_level=1)
                os.replace(begun, path)
    return len(jobs)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check(seed: int, size: tuple[int, int], counts: dict[str, int], classes: int, difficulty: float) -> None:
    """Refuse what cannot be rendered.

    Raises:
        UserError: naming the key in params.yaml and its value.
    """
    if not isinstance(seed, int) or seed < 0:
        raise UserError(f"dataset.seed is {seed!r}; give a whole number of 0 or more")
    if len(size) != 2 or not all(isinstance(side, int) and 32 <= side <= 4096 for side in size):
        raise UserError(f"dataset.options.size is {list(size)!r}; give [height, width], each from 32 to 4096")
    for split, count in counts.items():
        if not isinstance(count, int) or not 1 <= count < 2**32:
            raise UserError(f"dataset.options.{split} is {count!r}; give the number of images, 1 or more")
    if classes not in CLASSES:
        raise UserError(f"dataset.options.classes is {classes!r}; valid: 9 and 11")
    if not isinstance(difficulty, int | float) or not 0 <= difficulty <= 1:
        raise UserError(f"dataset.options.difficulty is {difficulty!r}; give a number from 0 to 1")
