"""The train split decoded once, as raw bytes in one memory-mapped file; torch-free.

All stages, processes and workers share it. It is kept under the hash of the manifest, which holds the hashes
of all images and masks, and under the versions of the decoder. It changes no result.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from PIL import __version__ as pillow
from PIL import features

from afdcd.data.manifest import AGAIN, Entry, Manifest, Pixels, decode_image, decode_mask, vanished
from afdcd.data.masks import Colour
from afdcd.errors import UserError
from afdcd.files import atomic_folder, disk_errors, read_json, sha256, write_json

logger = logging.getLogger(__name__)

PIXELS = "train.u8"
STAMPS = "stamps.json"
SPARE_BYTES = 2**30
"""Disk that the cache leaves free, for checkpoints and results."""

Stamp = list[int]
"""Size and time of change of a file: while both stay, its bytes are not read again."""


class Decoded:
    """Decoded train samples; the file is mapped at the first use in each process."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        entries = manifest.split("train")
        self._places = dict(zip(entries, _offsets(entries), strict=False))
        self._bytes: Pixels | None = None

    def sample(self, entry: Entry) -> tuple[Pixels, Pixels]:
        """RGB (H, W, 3) and raw labels (H, W), as the manifest would decode them; read-only views."""
        if self._bytes is None:
            self._bytes = np.asarray(np.memmap(self.folder / PIXELS, np.uint8, "r"))
        start, count = self._places[entry], entry.height * entry.width
        size = (entry.height, entry.width)
        image = self._bytes[start : start + 3 * count].reshape(*size, 3)
        return image, self._bytes[start + 3 * count : start + 4 * count].reshape(size)

    def __getstate__(self) -> dict[str, Any]:
        """Without the map, of which a spawned worker would get a copy."""
        return self.__dict__ | {"_bytes": None}


def open_decoded(manifest: Manifest, folder: Path, limit: float) -> Decoded | None:
    """The decoded train split below `folder`, made if need be; None where it takes more than `limit` bytes.

    None also where the disk lacks room, which is logged. One process makes it while others wait; what older
    data left is removed.

    Raises:
        UserError: an image or mask is not what `prepare` saw, or has no labels.
    """
    entries = manifest.split("train")
    size = _offsets(entries)[-1]
    if size > limit:
        if limit:
            logger.info(
                "train images are decoded anew each time: %.1f GB are more than runtime.cache_gb", size / 1e9
            )
        return None
    place = folder / _key(manifest)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "lock"):
            if not _usable(place, entries, size):
                _remove_others(folder, place)
                free = shutil.disk_usage(folder).free
                if free < size + SPARE_BYTES:
                    logger.info(
                        "train images are decoded anew each time: keeping them decoded takes %.1f GB, "
                        "and %.1f GB are free",
                        *(size / 1e9, free / 1e9),
                    )
                    return None
                logger.info("decoding %d train images into %s (%.0f MB)", len(entries), place, size / 1e6)
                _make(place, entries, size, manifest.info.mask_colours)
    return Decoded(place, manifest)


def _key(manifest: Manifest) -> str:
    """Manifest and decoder: two versions of a JPEG library may differ by a grey level."""
    versions = [pillow, *(str(features.version(codec)) for codec in ("jpg", "zlib"))]
    return hashlib.sha256(" ".join([manifest.sha256, *versions]).encode()).hexdigest()[:16]


def _offsets(entries: list[Entry]) -> list[int]:
    """Where each sample's four bytes a pixel begin, and the size of all."""
    return [0, *accumulate(4 * entry.height * entry.width for entry in entries)]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process that holds it."""
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _remove_others(folder: Path, place: Path) -> None:
    for other in folder.iterdir():
        if other.is_dir() and other != place:
            shutil.rmtree(other, ignore_errors=True)


def _make(place: Path, entries: list[Entry], size: int, colours: tuple[Colour, ...] | None) -> None:
    """Decode in threads: decoding and hashing release the interpreter lock."""
    with atomic_folder(place) as temporary:
        with (temporary / PIXELS).open("wb") as handle:
            # A file with holes would meet a full disk in the map, as a signal that kills.
            os.posix_fallocate(handle.fileno(), 0, size)

            def put(entry: Entry, start: int) -> dict[str, Stamp]:
                stamps = {str(path): _stamp(path) for path, _ in _files(entry)}
                for pixels in _decoded(entry, colours):
                    _write(handle.fileno(), pixels, start)
                    start += pixels.nbytes
                return stamps

            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                made = list(pool.map(put, entries, _offsets(entries)[:-1]))
            os.fsync(handle.fileno())
        write_json(temporary / STAMPS, {path: stamp for stamps in made for path, stamp in stamps.items()})


def _write(file: int, pixels: Pixels, start: int) -> None:
    data = memoryview(pixels.tobytes())
    while data:
        written = os.pwrite(file, data, start)
        data, start = data[written:], start + written


def _decoded(entry: Entry, colours: tuple[Colour, ...] | None) -> tuple[Pixels, Pixels]:
    """Image and raw labels of a sample, from bytes that have the manifest's hashes."""
    (picture, its_hash), (mask, mask_hash) = _files(entry)
    image = decode_image(picture, io.BytesIO(_content(picture, its_hash)))
    labels = decode_mask(mask, io.BytesIO(_content(mask, mask_hash)), colours)
    assert image.shape == (entry.height, entry.width, 3) and labels.shape == image.shape[:2]
    return image, labels


def _files(entry: Entry) -> tuple[tuple[Path, str], tuple[Path, str]]:
    """Image and mask, with their hashes."""
    if entry.mask is None or entry.mask_sha256 is None:
        raise UserError(f"{entry.image} has no labels; {entry.split!r} can be used only without them")
    return (entry.image, entry.image_sha256), (entry.mask, entry.mask_sha256)


def _content(path: Path, digest: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise vanished(path) from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise _changed(path)
    return content


def _changed(path: Path) -> UserError:
    return UserError(f"{path} is not the file that prepare read; {AGAIN}")


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError as error:
        raise vanished(path) from error
    return [found.st_size, found.st_mtime_ns]


def _usable(place: Path, entries: list[Entry], size: int) -> bool:
    """Whether a whole cache stands at `place`; files touched since it was made must have their old bytes.

    Raises:
        UserError: one has others.
    """
    try:
        if (place / PIXELS).stat().st_size != size:
            return False
        stamps: dict[str, Stamp] = read_json(place / STAMPS)
    except (FileNotFoundError, UserError):
        return False
    for entry in entries:
        for path, digest in _files(entry):
            if stamps.get(str(path)) != _stamp(path) and sha256(path) != digest:
                raise _changed(path)
    return True
