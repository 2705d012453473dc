from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from afdcd.data.manifest import Manifest
from pipeline import configure, prepare

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["dataset"] = {
        "name": "camvid",
        "root": "data/raw/camvid",
        "unlabelled": [],
        "seed": 0,
        "options": {"partial": True},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path


def stage(project: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.prepare"]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, env=dict(os.environ))


def test_missing_data_root_is_one_sentence(project: Path) -> None:
    result = stage(project)
    assert result.returncode == 1
    assert result.stderr.startswith("error: the data root data/raw/camvid is missing: place the images there")
    assert "Traceback" not in result.stderr and not (project / "data/prepared").exists()


def write_images(root: Path, name: str) -> None:
    """One image a split with its mask, all of class 2."""
    for split in ("train", "val", "test"):
        for part, shape in {"images": (6, 8, 3), "masks": (6, 8)}.items():
            file = root / part / split / name
            file.parent.mkdir(parents=True)
            Image.fromarray(np.full(shape, 2, dtype=np.uint8)).save(file)


def without_mask(root: Path) -> str:
    (root / "masks/val/one.png").unlink()
    return f"image {root}/images/val/one.png has no mask: {root}/masks/val/one.png is missing"


def label_37(root: Path) -> str:
    Image.fromarray(np.full((6, 8), 37, dtype=np.uint8)).save(root / "masks/train/one.png")
    return f"label 37 in {root}/masks/train/one.png; this set has 11 classes (ids 0..10; 11, 255 ignored)"


def zero_bytes(root: Path) -> str:
    (root / "images/test/one.png").write_bytes(b"")
    return f"{root}/images/test/one.png is empty (0 bytes)"


def contents(folder: Path) -> dict[str, bytes]:
    """All files below, hidden ones too."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("prepared_before", [False, True])
@pytest.mark.parametrize("spoil", [without_mask, label_37, zero_bytes])
def test_a_fault_is_one_sentence_and_writes_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], str], prepared_before: bool
) -> None:
    monkeypatch.chdir(project)
    root = Path("data/raw/camvid")
    write_images(root, "one.png")
    if prepared_before:
        assert stage(project).returncode == 0
    sentence = spoil(root)
    before = contents(Path("data"))
    result = stage(project)
    assert result.returncode == 1 and result.stdout == ""
    header = "error: camvid: mend 1 fault(s) in the data and run again:"
    assert result.stderr.splitlines() == [header, f"  {sentence}"]
    assert contents(Path("data")) == before and Path("data/prepared").exists() == prepared_before


FULL_DISK = """
import errno, os

def full(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

os.fsync = full
from pipeline import cli, prepare
cli.run(prepare.main)
"""


def test_a_full_disk_is_one_sentence_and_keeps_what_was_prepared(project: Path) -> None:
    write_images(project / "data/raw/camvid", "one.png")
    assert stage(project).returncode == 0
    before = contents(project / "data")
    command = [sys.executable, "-c", FULL_DISK]
    result = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: the disk is full while writing data/prepared/dataset.json; ")
    assert contents(project / "data") == before


@pytest.fixture
def own_images(tmp_path: Path) -> Path:
    """A project composed for a folder of own images elsewhere, one image a split."""
    mine, project = tmp_path / "mine", tmp_path / "project"
    write_images(mine, "monday/one.png")
    project.mkdir()
    given = ["dataset=folder", f"dataset.root={mine}", "dataset.options.classes=[road,sky,car]"]
    configure.write(given, project / "params.yaml", REPOSITORY / "conf")
    return project


def test_own_images_become_a_manifest(own_images: Path) -> None:
    result = stage(own_images)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "folder: 1 train, 1 val, 1 test images, 3 classes\n"
    assert not list((own_images / ".runs").iterdir()), "a finished prepare leaves no journal"
    manifest = Manifest.load(own_images / "data/prepared")
    assert manifest.info.classes == ("road", "sky", "car")
    (entry,) = manifest.split("val")
    assert entry.name == "monday/one" and (manifest.labels(entry) == 2).all()
    assert manifest.image(entry).shape == (6, 8, 3)


def test_a_fault_in_own_images_is_one_sentence(own_images: Path) -> None:
    mask = own_images.parent / "mine/masks/train/monday/one.png"
    Image.fromarray(np.full((6, 8), 37, dtype=np.uint8)).save(mask)
    result = stage(own_images)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert f"label 37 in {mask}; this set has 3 classes (ids 0..2; 255 ignored)" in result.stderr
    assert not (own_images / "data/prepared").exists()


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 10.0, 31.0, 32.0, 61.0])
    monkeypatch.setattr(prepare.time, "monotonic", lambda: next(clock))
    advance = prepare.lines(30.0)
    for _ in range(5):
        advance("checking", 1000, 62)
    assert capsys.readouterr().err.splitlines() == [
        "checking 186 of 1000: 6 images/s, 2 min left",
        "checking 310 of 1000: 4 images/s, 3 min left",
    ]


@pytest.mark.camvid
def test_real_images_become_a_manifest(project: Path, camvid_root: Path) -> None:
    (project / "data/raw").mkdir(parents=True)
    (project / "data/raw/camvid").symlink_to(camvid_root)
    result = stage(project)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "camvid: 367 train, 101 val, 233 test images, 11 classes\n"
    assert result.stderr == ""
    manifest = Manifest.load(project / "data/prepared")
    assert manifest.info.splits == {"train": 367, "val": 101, "test": 233}
