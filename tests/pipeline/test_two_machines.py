"""A target that is measured on another machine, with two clones: one trains, the other plays the device."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from clone import Clone, changed

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("two_machines")]

AWAY = "board_int8"
SPEC = {"backend": "onnxruntime", "precision": "int8", "where": "board", "threads": 1}
SMOKE = (
    "schedule=smoke",
    "distill.run=[kd]",
    "deploy.models=[teacher,narrow_r18_kd_0]",
    "deploy.release=[narrow_r18_kd_0]",
    "deploy.targets=[ort_cpu_fp32]",
    "runtime.threads=1",
)


def test_kit_there_measurement_back_release(tmp_path: Path) -> None:
    home, board = Clone(tmp_path / "home"), Clone(tmp_path / "board")
    home.python("pipeline.configure", *SMOKE)
    edits = {
        f"deploy.specs.{AWAY}": SPEC,
        "deploy.elsewhere": [AWAY],
        "deploy.benchmark.iterations": 20,
        "deploy.benchmark.rounds": 2,
        "gates.max_drop.int8": 20.0,
        "gates.max_class_drop.int8": None,
        "gates.min_retention": None,
    }
    home.edit(
        "params.yaml", lambda text: yaml.safe_dump(changed(yaml.safe_load(text), edits), sort_keys=False)
    )
    said = home.repro(expect=1)
    assert "Traceback" not in said
    assert f"measured of narrow_r18_kd_0 on {AWAY}" in said and "python -m deploy measure board" in said
    assert not list(home.folder.glob("models/release/*/*"))

    shutil.copytree(home.folder / "kits/board", board.folder / "board")
    told = board.python("deploy", "measure", "board")
    assert AWAY in told and (board.folder / "measurements/board.json").is_file()

    shutil.copytree(board.folder / "measurements", home.folder / "measurements", dirs_exist_ok=True)
    home.repro()
    released = home.folder / "models/release/narrow_r18_kd_0" / AWAY
    manifest = json.loads((released / "manifest.json").read_text(encoding="utf-8"))
    assert (
        manifest["measured"]["provenance"]["git"] and manifest["measured"]["latency"]["latency_ms"]["p50"] > 0
    )
    home.python("deploy", "verify", str(released))

    # Another network than the one that was measured: its figures are not those of the file any more.
    home.edit("params.yaml", lambda text: text.replace("calibration_images: 4", "calibration_images: 8"))
    said = home.repro(expect=1)
    assert "is of another kit than kits/board" in said and "Traceback" not in said
    assert json.loads((released / "manifest.json").read_text(encoding="utf-8")) == manifest
