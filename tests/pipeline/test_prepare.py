from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from afdcd.data.manifest import Manifest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["dataset"] = {"name": "camvid", "root": "data/raw/camvid", "seed": 0, "options": {}}
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
