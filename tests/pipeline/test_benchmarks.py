"""Each benchmark in its official layout, from the files to a scored engine, by a real dvc repro."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from clone import Clone
from official_layouts import WRITERS

from afdcd.data.sources.official import Official

pytestmark = pytest.mark.slow

SMALL = (
    *("schedule=smoke", "pair=narrow_r18", "recipe=[kd]", "dataset.options.partial=true"),
    *("dataset.options.holdout=2", "train.practice.augment.crop=[32,64]", "deploy.export.input_size=[32,64]"),
    *("deploy.targets=[ort_cpu_fp32]", "deploy.models=[narrow_r18_kd_0]", "deploy.export.parity_images=1"),
    *("gates.min_retention=null", "gates.min_speedup_over_teacher=null", "runtime.threads=1"),
    *("deploy.benchmark.iterations=3", "deploy.benchmark.rounds=2", "train.schedule.batch_size=2"),
    # Six iterations leave many of 150 classes equal but for rounding.
    *("teacher.schedule.batch_size=2", "deploy.export.min_agreement=0.99"),
)


@pytest.mark.parametrize("kind", WRITERS, ids=lambda kind: kind.name)
def test_from_official_files_to_a_scored_engine(kind: type[Official], tmp_path: Path) -> None:
    clone = Clone(tmp_path / "clone")
    WRITERS[kind](clone.folder / "data/raw" / kind.name, size=(40, 72))
    clone.python("pipeline.configure", f"dataset={kind.name}", *SMALL)
    clone.repro("evaluate")
    score = json.loads(clone.read("reports/evaluation/ort_cpu_fp32/narrow_r18_kd_0/score.json"))
    assert score["images"] == 3 and score["agreement"] > 0.98
    classes = json.loads(clone.read("data/prepared/dataset.json"))["classes"]
    assert score["classes"] == classes and sum(map(sum, score["confusion"])) > 0
