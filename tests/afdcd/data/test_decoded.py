from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from afdcd.config import AugmentConfig
from afdcd.data import decoded
from afdcd.data.decoded import PIXELS, Decoded, open_decoded
from afdcd.data.loader import training_batches
from afdcd.data.manifest import Manifest
from afdcd.errors import UserError

SIZE = 12 * 48 * 96 * 4
AUGMENT = AugmentConfig(
    order="window",
    crop=(24, 32),
    scale=(0.5, 1.5),
    fill=(0, 0, 0),
    flip=0.5,
    balanced=0.0,
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
)


@pytest.fixture
def manifest(prepared: Path, tmp_path: Path) -> Manifest:
    """A copy that a test may change."""
    return Manifest.load(Path(shutil.copytree(prepared, tmp_path / "prepared")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "decoded"


def opened(manifest: Manifest, folder: Path) -> Decoded:
    found = open_decoded(manifest, folder, SIZE)
    assert found is not None
    return found


def count_decodes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []
    for name in ("decode_image", "decode_mask"):
        decode = getattr(decoded, name)
        monkeypatch.setattr(
            decoded, name, lambda path, *rest, call=decode: seen.append(path) or call(path, *rest)
        )
    return seen


def test_samples_are_those_of_the_files(manifest: Manifest, folder: Path) -> None:
    store = opened(manifest, folder)
    for entry in manifest.split("train"):
        image, labels = store.sample(entry)
        assert (image == manifest.image(entry)).all() and (labels == manifest.raw_labels(entry)).all()
        assert image.dtype == labels.dtype == np.uint8 and not image.flags.writeable


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_with_and_without(manifest: Manifest, folder: Path, workers: int) -> None:
    settings = dict(augment=AUGMENT, batch_size=4, seed=3, stop=6, rank=0, world_size=1)
    store = opened(manifest, folder)
    kept = training_batches(manifest, start=2, workers=workers, decoded=store, **settings)
    for one, two in zip(
        list(training_batches(manifest, start=0, workers=0, **settings))[2:], kept, strict=True
    ):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_made_once(manifest: Manifest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = count_decodes(monkeypatch)
    opened(manifest, folder)
    opened(manifest, folder)
    assert len(seen) == 24


def _make(prepared: Path, folder: Path, start: multiprocessing.Barrier) -> None:
    start.wait()
    os._exit(len(os.listdir(opened(Manifest.load(prepared), folder).folder)))


def test_processes_at_once_make_one(manifest: Manifest, folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    group = [context.Process(target=_make, args=(manifest.folder, folder, start)) for _ in range(3)]
    for process in group:
        process.start()
    for process in group:
        process.join(30)
    assert [process.exitcode for process in group] == [2, 2, 2]
    assert sorted(path.is_dir() for path in folder.iterdir()) == [False, True]


def test_changed_image_is_never_served_from_before(manifest: Manifest, folder: Path) -> None:
    opened(manifest, folder)
    image = manifest.split("train")[3].image
    pixels = np.asarray(Image.open(image))
    Image.fromarray(255 - pixels).save(image)
    with pytest.raises(UserError, match="is not the file that prepare read; run `dvc repro prepare`"):
        open_decoded(manifest, folder, SIZE)


def test_image_changed_before_the_first_use_is_refused(manifest: Manifest, folder: Path) -> None:
    image = manifest.split("train")[3].image
    Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
    with pytest.raises(UserError, match="is not the file that prepare read"):
        open_decoded(manifest, folder, SIZE)
    assert not [path for path in folder.iterdir() if path.is_dir()]


def test_touched_image_with_its_old_bytes_is_good(manifest, folder, monkeypatch) -> None:
    opened(manifest, folder)
    os.utime(manifest.split("train")[0].image, (1, 1))
    seen = count_decodes(monkeypatch)
    opened(manifest, folder)
    assert not seen


def test_vanished_image_is_one_sentence(manifest: Manifest, folder: Path) -> None:
    opened(manifest, folder)
    manifest.split("train")[5].image.unlink()
    with pytest.raises(UserError, match="could be read by prepare and cannot be read now"):
        open_decoded(manifest, folder, SIZE)


def test_new_data_have_a_new_cache_and_the_old_one_goes(manifest: Manifest, folder: Path) -> None:
    before = opened(manifest, folder)
    newer = Manifest(manifest.folder, manifest.info, manifest.entries, "0" * 64)
    after = opened(newer, folder)
    assert after.folder != before.folder and after.folder.is_dir() and not before.folder.exists()


def test_cut_cache_is_made_again(manifest: Manifest, folder: Path) -> None:
    path = opened(manifest, folder).folder / PIXELS
    with path.open("r+b") as handle:
        handle.truncate(SIZE // 2)
    entry = manifest.split("train")[-1]
    assert (opened(manifest, folder).sample(entry)[0] == manifest.image(entry)).all()


@pytest.mark.parametrize("limit", [0, SIZE - 1])
def test_what_exceeds_the_limit_is_not_kept(manifest: Manifest, folder: Path, limit: int, caplog) -> None:
    caplog.set_level(logging.INFO)
    assert open_decoded(manifest, folder, limit) is None
    assert not folder.exists()
    assert ("are more than runtime.cache_gb" in caplog.text) == (limit > 0)


def test_disk_without_room_is_told_and_nothing_is_kept(manifest, folder, monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO)
    free = SimpleNamespace(free=decoded.SPARE_BYTES + SIZE - 1)
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda path: free)
    assert open_decoded(manifest, folder, SIZE) is None
    assert "are free" in caplog.text and not list(folder.glob("*/"))


def test_goes_to_a_spawned_worker_without_its_bytes(manifest: Manifest, folder: Path) -> None:
    store = opened(manifest, folder)
    entry = manifest.split("train")[0]
    image, _ = store.sample(entry)
    packed = pickle.dumps(store)
    assert len(packed) < SIZE // 10
    assert (pickle.loads(packed).sample(entry)[0] == image).all()
