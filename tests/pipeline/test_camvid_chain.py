"""The whole graph on the real CamVid images in a few iterations: a root elsewhere, real sizes, 11 classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from clone import Clone

pytestmark = [pytest.mark.slow, pytest.mark.camvid, pytest.mark.xdist_group("camvid")]

SHORT = (
    *("dataset=camvid", "schedule=smoke", "recipe=[afdcd]", "runtime.threads=1"),
    *("teacher.schedule.iterations=4", "teacher.schedule.validate_every=4"),
    *("train.schedule.iterations=4", "train.schedule.validate_every=4"),
    *("deploy.models=[teacher,narrow_r18_alone_0,narrow_r18_afdcd_0]", "deploy.targets=[ort_cpu_fp32]"),
    *("deploy.benchmark.iterations=3", "gates.min_speedup_over_teacher=null"),
)


def test_the_chain_on_real_images(tmp_path: Path, camvid_root: Path) -> None:
    clone = Clone(tmp_path / "clone")
    clone.python("pipeline.configure", *SHORT, f"dataset.root={camvid_root.resolve()}")
    clone.repro()
    assert json.loads(clone.read("data/prepared/dataset.json"))["splits"] == {
        "train": 367,
        "val": 101,
        "test": 233,
    }
    score = json.loads(clone.read("reports/evaluation/ort_cpu_fp32/narrow_r18_afdcd_0/score.json"))
    assert score["images"] == 233 and len(score["classes"]) == 11 and score["agreement"] > 0.999
    assert list(clone.folder.glob("models/release/narrow_r18_afdcd_0/ort_cpu_fp32/manifest.json"))
    assert "Running stage 'prepare'" not in clone.repro()
