"""Training batches as a function of (seed, iteration): the same whatever the ranks, workers and restarts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from afdcd.config import IGNORE_INDEX, AugmentConfig
from afdcd.data import transforms
from afdcd.data.decoded import Decoded
from afdcd.data.manifest import Entry, Manifest, Pixels
from afdcd.data.sources import UNLABELLED
from afdcd.errors import UserError

CACHE_BYTES = 2**30
"""Decoded training samples that one rank keeps in memory, over all its workers, where no file holds them."""

ORDER, AUGMENTATION, KEY, UNLABELLED_ORDER = range(4)
"""Streams of random numbers; one a purpose, so that none repeats another."""


NOTHING: Pixels = np.full(256, IGNORE_INDEX, dtype=np.uint8)
"""The label map of an image without labels."""


class Batch(NamedTuple):
    """One rank's share of a global batch."""

    images: Tensor
    """uint8 (B, 3, H, W), RGB, channels last in memory; float32 with `order: released`."""
    labels: Tensor
    """uint8 (B, H, W), train ids; 255 is ignored."""
    keys: Tensor
    """int64 (B,), a number of its own for each (seed, iteration, sample); seeds masks and other draws."""


def training_batches(
    manifest: Manifest,
    *,
    augment: AugmentConfig,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    rank: int,
    world_size: int,
    workers: int,
    decoded: Decoded | None = None,
    unlabelled: int = 0,
) -> Iterator[Batch]:
    """This rank's share of the iterations start..stop-1; the shares in rank order are the global batch.

    `workers` processes make batches ahead, the same from start to stop; 0 makes them in this one.
    `decoded` saves decoding and changes nothing.
    `unlabelled` images of each global batch come from the split of that name, evenly spread over it; all
    their pixels are ignored.

    Raises:
        UserError: `batch_size` (global) is not divisible by `world_size`, the train split or the unlabelled
            one is empty, or a file cannot be read.
    """
    if batch_size % world_size:
        raise UserError(
            f"a batch of {batch_size} cannot be shared by {world_size} processes: "
            "choose a schedule.batch_size that is a multiple of the number of processes"
        )
    share = range(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
    room = CACHE_BYTES // max(1, workers)
    batches = _Batches(manifest, augment, batch_size, seed, share, room, decoded, unlabelled)
    return _ahead(batches, range(start, stop), workers) if workers else map(batches.make, range(start, stop))


def sample_order(seed: int, iteration: int, batch_size: int, count: int, stream: int = ORDER) -> list[int]:
    """Indices of the samples of a global batch: each epoch of `count` samples has its own permutation."""
    places = range(iteration * batch_size, (iteration + 1) * batch_size)
    return [int(_permutation(stream, seed, place // count, count)[place % count]) for place in places]


@lru_cache(maxsize=4)
def _permutation(stream: int, seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([stream, seed, epoch]).permutation(count)


class _Batches(Dataset["Batch | UserError"]):
    """Batches by iteration number, with a cache of decoded samples."""

    def __init__(
        self,
        manifest: Manifest,
        augment: AugmentConfig,
        batch_size: int,
        seed: int,
        share: range,
        cache_bytes: int,
        decoded: Decoded | None = None,
        unlabelled: int = 0,
    ) -> None:
        self._manifest = manifest
        self._entries = manifest.split("train")
        self._unlabelled = manifest.split(UNLABELLED) if unlabelled else []
        self._without = unlabelled
        self._augment = augment
        self._batch_size = batch_size
        self._seed = seed
        self._share = share
        self._room = cache_bytes
        self._file = decoded
        self._cache: dict[Entry, tuple[Pixels, Pixels]] = {}

    def __getitem__(self, iteration: int) -> Batch | UserError:
        """The batch, or the error as a value: DataLoader puts a traceback around what a worker raises."""
        try:
            return self.make(iteration)
        except UserError as error:
            return error

    def make(self, iteration: int) -> Batch:
        """This rank's share of one iteration."""
        chosen = self._chosen(iteration)
        height, width = self._augment.crop
        kind = np.float32 if self._augment.order == "released" else np.uint8
        images = np.empty((len(self._share), height, width, 3), dtype=kind)
        labels = np.empty((len(self._share), height, width), dtype=np.uint8)
        keys = np.empty(len(self._share), dtype=np.int64)
        for slot, place in enumerate(self._share):
            entry = chosen[place]
            image, raw_labels = self._decoded(entry)
            label_map = NOTHING if entry.mask is None else self._manifest.label_map
            rng = np.random.default_rng([AUGMENTATION, self._seed, iteration, place])
            images[slot], labels[slot] = transforms.augment(image, raw_labels, label_map, self._augment, rng)
            keys[slot] = sample_key(self._seed, iteration, place)
        planes = torch.from_numpy(images).permute(0, 3, 1, 2)
        return Batch(planes, torch.from_numpy(labels), torch.from_numpy(keys))

    def _chosen(self, iteration: int) -> list[Entry]:
        """The samples of a global batch; each kind has an order of its own."""
        size, without = self._batch_size, self._without
        known = iter(sample_order(self._seed, iteration, size - without, len(self._entries)))
        if not without:
            return [self._entries[index] for index in known]
        others = iter(
            sample_order(self._seed, iteration, without, len(self._unlabelled), stream=UNLABELLED_ORDER)
        )
        return [
            self._unlabelled[next(others)]
            if (place + 1) * without // size > place * without // size
            else self._entries[next(known)]
            for place in range(size)
        ]

    def _decoded(self, entry: Entry) -> tuple[Pixels, Pixels]:
        if self._file is not None and entry.mask is not None:
            return self._file.sample(entry)
        if entry not in self._cache:
            image = self._manifest.image(entry)
            if entry.mask is None:
                sample = image, np.broadcast_to(np.uint8(0), image.shape[:2])
            else:
                sample = image, self._manifest.raw_labels(entry)
            self._room -= image.nbytes + image[..., 0].nbytes
            if self._room < 0:
                return sample
            self._cache[entry] = sample
        return self._cache[entry]


def sample_key(seed: int, iteration: int, place: int) -> int:
    """63 mixed bits of (seed, iteration, place in the global batch)."""
    state = np.random.SeedSequence([KEY, seed, iteration, place]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def _ahead(batches: _Batches, iterations: range, workers: int) -> Iterator[Batch]:
    """Batches made by worker processes, in order."""
    loader: DataLoader[Any] = DataLoader(
        batches,
        batch_size=None,
        sampler=iterations,
        num_workers=workers,
        collate_fn=_as_is,
        # Its own generator: a draw from the global one would make dropout depend on the workers.
        generator=torch.Generator(),
    )
    for item in loader:
        if isinstance(item, UserError):
            raise item
        yield item


def _as_is(item: Any) -> Any:
    return item
