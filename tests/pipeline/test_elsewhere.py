"""Targets that another device measures: what report, gate and release make of its file, or of its absence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_run
import numpy as np
import pytest
import yaml
from fake_run import MODELS, RELEASED, TARGET

from afdcd.data.manifest import Manifest
from afdcd.errors import UserError
from afdcd.files import read_json, write_json, write_text
from deploy.benchmark import Report
from deploy.bundle import CONTRACT, manifest_sha256, read_manifest, verify, write_model
from deploy.bundle import Manifest as Engine
from deploy.config import TargetConfig
from deploy.evaluate import Score
from deploy.kit import Labelled, Plan, write_kit
from deploy.measurement import DeviceMeasurement, Outcome, read_measurement
from pipeline import checks, elsewhere, gate, paths, release, report
from pipeline.params import load
from pipeline.results import TEACHER, collect, read_typed
from pipeline.scoring import LOGITS, PREDICTIONS, SCORE

AWAY, DEVICE = "board_fp32", "board"
SPEC = TargetConfig(backend="onnxruntime", precision="fp32", where=DEVICE, threads=1)
MEASUREMENT = paths.measurement(DEVICE)


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run, as the working folder."""
    folder = shutil.copytree(made, tmp_path / "run")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def made(params_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on one target here, and the kit of another one for a device."""
    tmp_path = tmp_path_factory.mktemp("elsewhere")
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        return make(tmp_path, params_text)
    finally:
        os.chdir(before)


def make(tmp_path: Path, params_text: str) -> Path:
    params = yaml.safe_load(params_text)
    params["deploy"]["specs"][AWAY] = SPEC.model_dump()
    fake_run.write_project(tmp_path, yaml.safe_dump(params))
    params = yaml.safe_load(paths.PARAMS.read_text())
    params["deploy"]["elsewhere"] = [AWAY]
    write_text(paths.PARAMS, yaml.safe_dump(params, sort_keys=False))
    (tmp_path / "data/raw/streets").mkdir(parents=True)
    fake_run.complete()
    write_the_kit()
    return tmp_path


def write_the_kit() -> None:
    """What the stage kit writes, from the fake engines."""
    typed: dict[tuple[str, str], Path] = {}
    for model in MODELS:
        folder = Path("typed") / model
        shutil.copytree(paths.engine(TARGET, model), folder)
        write_model(folder / CONTRACT, fake_run.contract(model))
        for name in ("parity.json", "quantize.json"):
            write_json(folder / name, {})
        typed[AWAY, model] = folder
    data, params = Manifest.load(paths.PREPARED), load()
    plan = Plan(
        device=DEVICE,
        targets={AWAY: SPEC},
        models=MODELS,
        typed=typed,
        baseline=TEACHER,
        reference="PyTorch",
        references={model: read_typed(Score, paths.reference(model) / SCORE) for model in MODELS},
        maps={model: paths.reference(model) / PREDICTIONS for model in MODELS},
        logits={model: paths.reference(model) / LOGITS for model in MODELS},
        released=[RELEASED],
        controls={},
        split="test",
        data="painted",
        licence="CC0",
        benchmark=params.deploy.benchmark,
        gates=params.gates,
        timing=[entry.image for entry in data.split("val")],
        calibration=np.zeros((0, 1, 1, 3), dtype=np.uint8),
    )
    labelled = [Labelled(entry.name, entry.image, data.labels(entry)) for entry in data.split("test")]
    kit = write_kit(paths.kit(DEVICE), plan, labelled)
    assert len(kit.samples) == 5


def away(model: str) -> Engine:
    return read_manifest(paths.engine(TARGET, model)).model_copy(
        update={"target": AWAY, "versions": {"a": "1"}}
    )


def measured(**changes: Any) -> DeviceMeasurement:
    """What the device would say: the figures of this machine, of engines that it built itself."""
    from deploy.kit import read_kit

    engines = {model: away(model) for model in MODELS}
    scores = {
        model: read_typed(Score, paths.evaluation(TARGET, model) / SCORE).model_copy(
            update={"engine": manifest_sha256(engines[model])}
        )
        for model in MODELS
    }
    timing = read_typed(Report, paths.benchmark(TARGET))
    models = {
        model: result.model_copy(update={"engine": manifest_sha256(engines[model])})
        for model, result in timing.models.items()
    }
    timing = timing.model_copy(update={"models": models, "hardware": {"cpu": {"model": "Board CPU"}}})
    values = {
        "format": 1,
        "kit": read_kit(paths.kit(DEVICE)).key(),
        "device": DEVICE,
        "hardware": {"cpu": {"model": "Board CPU"}},
        "targets": {AWAY: Outcome(reason=None, engines=engines, scores=scores, timing=timing)},
        "digest": "",
        **changes,
    }
    blank = DeviceMeasurement.model_validate(values)
    return blank.model_copy(update={"digest": blank.computed()})


def test_unmeasured_it_is_reported_and_blocks_the_release(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report.main([])
    page = paths.REPORT.read_text(encoding="utf-8")
    assert f"{MEASUREMENT} is not there" in page and "python -m deploy measure board" in page
    with pytest.raises(
        UserError,
        match=r"1 of \d+ gates failed:\n  measured of .* on board_fp32 \(onnxruntime fp32\): .*not there",
    ):
        gate.main([])
    assert not paths.VERDICT.exists()


def test_measured_it_is_reported_judged_and_released(run: Path) -> None:
    write_model(MEASUREMENT, measured())
    report.main([])
    assert AWAY in read_json(paths.METRICS)[RELEASED] and AWAY in paths.REPORT.read_text(encoding="utf-8")
    gate.main([])
    verdicts = read_json(paths.VERDICT)["gates"]["verdicts"]
    assert {(row["model"], row["target"]) for row in verdicts} == {(RELEASED, TARGET), (RELEASED, AWAY)}
    release.main([])
    bundle = paths.RELEASE / RELEASED / AWAY
    manifest = verify(bundle)
    assert manifest.versions == {"a": "1"} and manifest.measured is not None
    assert manifest.measured["hardware"] == {"cpu": {"model": "Board CPU"}}
    assert "Board CPU" in (bundle / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kit": "0" * 64}, "is of another kit"),
        ({"device": "other"}, "is of another kit"),
        ({"targets": {}}, "does not hold it"),
        (
            {"targets": {AWAY: Outcome(reason="no GPU", engines={}, scores={}, timing=None)}},
            "board could not measure it: no GPU",
        ),
    ],
)
def test_a_measurement_of_something_else_says_nothing(run: Path, changes: dict[str, Any], said: str) -> None:
    write_model(MEASUREMENT, measured(**changes))
    found, missing = elsewhere.collect(load().deploy)
    assert not found and said in missing[AWAY]
    assert AWAY not in collect(load()).targets()


@pytest.mark.parametrize("changes", [{"kit": "0" * 64}, {"device": "other"}])
def test_the_command_refuses_a_measurement_of_another_model(run: Path, changes: dict[str, Any]) -> None:
    """The kit's key holds networks, images and settings: one of another model has another."""
    write_model(MEASUREMENT, measured(**changes))
    report.main([])
    root = Path(fake_run.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.gate"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    said = " ".join(done.stderr.split())
    assert f"measured of {RELEASED} on {AWAY}" in said
    assert (
        f"{MEASUREMENT} is of another kit than kits/board: networks, images or settings have changed" in said
    )
    assert "python -m deploy measure board" in said
    assert not paths.VERDICT.exists()


def test_an_edited_measurement_says_nothing(run: Path) -> None:
    write_model(MEASUREMENT, measured())
    assert not elsewhere.collect(load().deploy)[1]
    value = read_json(MEASUREMENT)
    value["targets"][AWAY]["timing"]["models"][RELEASED]["latency_ms"]["p50"] = 0.001
    write_json(MEASUREMENT, value)
    assert "edited or damaged" in elsewhere.collect(load().deploy)[1][AWAY]


def test_another_graph_than_the_measured_one_is_not_released(run: Path) -> None:
    write_model(MEASUREMENT, measured())
    report.main([])
    gate.main([])
    graph = paths.kit(DEVICE) / "graphs" / AWAY / RELEASED / "class_map.onnx"
    graph.write_bytes(graph.read_bytes() + b" ")
    with pytest.raises(UserError, match="SHA-256 differs"):
        release.main([])
    graph.unlink()
    with pytest.raises(UserError, match="bring the folder .* back too"):
        release.main([])
    assert not paths.RELEASE.exists()


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({"elsewhere": [AWAY, TARGET]}, "ort_cpu_fp32 is measured here"),
        ({"targets": [TARGET, AWAY]}, "board_fp32 is measured on 'board'"),
        ({"elsewhere": ["bord_fp32"]}, "did you mean 'board_fp32'"),
        ({"where": "a board"}, "no possible name of a device"),
        ({"backend": "onnxrt"}, "unknown backend"),
    ],
)
def test_what_cannot_be_measured_elsewhere_is_refused_early(
    run: Path, edits: dict[str, Any], said: str
) -> None:
    params = yaml.safe_load(paths.PARAMS.read_text())
    for key, value in edits.items():
        place = params["deploy"] if key in params["deploy"] else params["deploy"]["specs"][AWAY]
        place[key] = value
    write_text(paths.PARAMS, yaml.safe_dump(params, sort_keys=False))
    with pytest.raises(UserError, match=said):
        checks.check(load())


def test_a_digest_is_of_everything_else(run: Path) -> None:
    write_model(MEASUREMENT, measured())
    assert read_measurement(MEASUREMENT).targets[AWAY].engines[RELEASED] == away(RELEASED)
