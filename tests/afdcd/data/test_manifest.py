from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from afdcd.data.manifest import DatasetInfo, Manifest, evaluation_samples
from afdcd.data.prepare import prepare
from afdcd.data.sources.camvid import CamVid
from afdcd.errors import UserError


@pytest.fixture
def copy(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "prepared"))


def with_pixels(manifest: Manifest, pixels: list[int], shown_in: list[int]) -> Manifest:
    update = {"class_pixels": {"train": pixels}, "class_image_pixels": {"train": shown_in}}
    info = manifest.info.model_copy(update=update)
    return Manifest(manifest.folder, info, manifest.entries, manifest.sha256)


def test_reads_what_prepare_wrote(prepared: Path) -> None:
    manifest = Manifest.load(prepared)
    assert manifest.info == DatasetInfo.load(prepared)
    assert manifest.num_classes == 4
    assert [len(manifest.split(name)) for name in ("train", "val", "test")] == [12, 4, 4]
    entry = manifest.split("val")[1]
    assert (entry.name, entry.height, entry.width) == ("val_001", 48, 96)
    assert manifest.image(entry).shape == (48, 96, 3)


def test_labels_are_train_ids(prepared: Path) -> None:
    manifest = Manifest.load(prepared)
    entry = manifest.split("train")[0]
    with Image.open(entry.mask) as mask:
        raw = np.asarray(mask)
    labels = manifest.labels(entry)
    assert (labels[raw == 7] == 255).all() and (labels[raw != 7] == raw[raw != 7]).all()


def test_relative_root_starts_from_the_working_folder(tmp_path, write_camvid, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = write_camvid(Path("raw/camvid"))
    prepare(
        CamVid(root, seed=0, partial=True),
        root=root,
        folder=Path("prepared"),
        progress=lambda what, total, done: None,
    )
    manifest = Manifest.load(Path("prepared"))
    assert manifest.split("train")[0].image == Path("raw/camvid/images/train/train0.jpg")
    assert manifest.image(manifest.split("train")[0]).shape == (6, 8, 3)


def test_identity_follows_both_files(copy: Path, prepared: Path) -> None:
    original = Manifest.load(prepared).sha256
    assert Manifest.load(copy).sha256 == original
    for name in ("dataset.json", "manifest.jsonl"):
        text = (copy / name).read_text()
        (copy / name).write_text(text.replace("train_000", "train_999", 1).replace("made by", "by", 1))
        assert Manifest.load(copy).sha256 != original
        (copy / name).write_text(text)


@pytest.mark.parametrize("name", ["dataset.json", "manifest.jsonl"])
@pytest.mark.parametrize("damage", ["gone", "cut", "foreign"])
def test_damaged_files_are_named_with_a_remedy(copy: Path, name: str, damage: str) -> None:
    file = copy / name
    if damage == "gone":
        file.unlink()
    else:
        file.write_text('{"a": 1}' if damage == "foreign" else file.read_text()[:-30])
    with pytest.raises(UserError, match=f"{name} .*dvc repro"):
        Manifest.load(copy)


def test_unknown_split_names_the_known_ones(prepared: Path) -> None:
    with pytest.raises(UserError, match="no split 'dev'; it has .*train"):
        Manifest.load(prepared).split("dev")


def test_vanished_image_is_named(copy: Path) -> None:
    manifest = Manifest.load(copy)
    entry = manifest.split("test")[0]
    entry.image.unlink()
    with pytest.raises(UserError, match=r"test_000\.png could be read by prepare"):
        manifest.image(entry)


def test_sample_without_mask_has_no_labels(prepared: Path) -> None:
    manifest = Manifest.load(prepared)
    with pytest.raises(UserError, match="has no labels"):
        manifest.labels(manifest.split("val")[0]._replace(mask=None))


@pytest.mark.parametrize("kind", ["log", "median"])
def test_class_weights_have_mean_one_and_favour_rare_classes(prepared: Path, kind) -> None:
    manifest = Manifest.load(prepared)
    weights = manifest.class_weights(kind)
    pixels = np.array(manifest.info.class_pixels["train"])
    assert weights.dtype == np.float64
    assert (weights * pixels).sum() / pixels.sum() == pytest.approx(1.0)
    if kind == "log":
        assert (np.argsort(weights) == np.argsort(-pixels)).all()
    assert manifest.class_weights("none") is None


def test_class_weights_by_hand(prepared: Path) -> None:
    manifest = with_pixels(Manifest.load(prepared), [600, 300, 90, 10], [1000, 1000, 500, 100])
    log = manifest.class_weights("log")
    assert log / log[0] == pytest.approx(np.log(1.7) / np.log([1.7, 1.4, 1.19, 1.11]))
    median = manifest.class_weights("median")
    assert median / median[0] == pytest.approx([1, 0.6 / 0.3, 0.6 / 0.18, 0.6 / 0.1])


@pytest.mark.parametrize("kind", ["log", "median"])
def test_absent_class_gets_the_greatest_finite_weight(prepared: Path, kind) -> None:
    manifest = with_pixels(Manifest.load(prepared), [600, 300, 100, 0], [1000, 1000, 1000, 0])
    weights = manifest.class_weights(kind)
    assert np.isfinite(weights).all() and weights[3] == weights[2] == weights.max()


def test_evaluation_samples_come_in_order_and_stop_at_the_limit(prepared: Path) -> None:
    manifest = Manifest.load(prepared)
    samples = list(evaluation_samples(manifest, "test", limit=3))
    assert [entry.name for entry, _, _ in samples] == ["test_000", "test_001", "test_002"]
    assert len(list(evaluation_samples(manifest, "test"))) == 4
    _, image, labels = samples[0]
    assert image.shape == (48, 96, 3) and labels.shape == (48, 96) and image.dtype == labels.dtype == np.uint8


def test_neither_manifest_nor_prepare_imports_torch() -> None:
    modules = "afdcd.data.manifest, pipeline.prepare"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
