"""Each data set in its own layout, from the files to a scored engine, by a real dvc repro.

The streets have chains of their own (`test_repro`); own images go through here in `make test`, the rest in
`make test-slow`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from clone import Clone
from official_layouts import COLOURS, WRITERS, write_camvid, write_folder

SMALL = (
    *("schedule=smoke", "pair=narrow_r18", "recipe=[kd]"),
    *("train.practice.augment.crop=[32,64]", "deploy.export.input_size=[32,64]"),
    *("deploy.targets=[ort_cpu_fp32]", "deploy.models=[narrow_r18_kd_0]", "deploy.export.parity_images=1"),
    *("gates.min_retention=null", "gates.min_speedup_over_teacher=null", "runtime.threads=1"),
    *("deploy.benchmark.iterations=3", "deploy.benchmark.rounds=2", "train.schedule.batch_size=2"),
    # Six iterations leave many of 150 classes equal but for rounding.
    *("teacher.schedule.batch_size=2", "gates.export_min_agreement=0.99"),
    "gates.min_agreement.fp32=0.99",
)


OFFICIAL = ("dataset.options.partial=true", "dataset.options.holdout=2")


def case(name: str, write: Callable[..., None], *options: str, quick: bool = False) -> object:
    marks = () if quick else (pytest.mark.slow,)
    return pytest.param(name, write, options, id=name, marks=marks)


@pytest.mark.parametrize(
    ("name", "write", "options"),
    [
        case("folder", write_folder, "dataset.options.classes=classes.csv", quick=True),
        case("camvid", write_camvid, "dataset.options.partial=true"),
        *(case(kind.name, write, *OFFICIAL) for kind, write in WRITERS.items()),
    ],
)
def test_from_its_files_to_a_scored_engine(
    name: str, write: Callable[..., None], options: tuple[str, ...], tmp_path: Path
) -> None:
    clone = Clone(tmp_path / "clone")
    write(clone.folder / "data/raw" / name, size=(40, 72))
    clone.python("pipeline.configure", f"dataset={name}", *SMALL, *options)
    clone.repro("evaluate")
    score = json.loads(clone.read("reports/evaluation/ort_cpu_fp32/narrow_r18_kd_0/score.json"))
    assert score["images"] == 3 and score["agreement"] > 0.98
    classes = json.loads(clone.read("data/prepared/dataset.json"))["classes"]
    assert score["classes"] == classes and sum(map(sum, score["confusion"])) > 0
    assert classes == list(COLOURS) or name != "folder"
