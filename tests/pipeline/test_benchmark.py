from __future__ import annotations

import re
from pathlib import Path

import pytest
from fake_run import MODELS, TARGET, write_project

from afdcd.errors import UserError
from afdcd.files import sha256
from deploy.benchmark import Report
from pipeline import benchmark, paths
from pipeline.results import read_typed


@pytest.fixture
def here(tmp_path: Path, params_text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_project(tmp_path, params_text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_measures_all_models_of_the_target_in_one_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main([TARGET])
    report = read_typed(Report, paths.benchmark(TARGET))
    assert list(report.models) == sorted(MODELS) and report.baseline == "teacher"
    assert report.input_size == (8, 16) and report.inputs == "5 batches of validation images"
    for model, result in report.models.items():
        assert result.latency_ms.samples == 15 and result.speedup is not None
        assert result.compute_ms is not None and result.compute_ms.samples == 6 and result.compute_ms.p50 > 0
        assert result.engine == sha256(paths.engine(TARGET, model) / "manifest.json")
    assert report.peak is not None and list(report.peak.gflops) == ["fp32"] and report.peak.gflops["fp32"]
    assert set(report.work) == set(MODELS)
    assert re.search(rf"teacher on {TARGET}: p50 \S+ ms \(\S+ ms in the engine\)", capsys.readouterr().out)


def test_batches_go_round_the_validation_images(here: Path) -> None:
    geometry = benchmark._geometry(TARGET, MODELS)
    batches = benchmark._batches(geometry, 3)
    assert [batch.shape for batch in batches] == [(3, 8, 16, 3)] * 5
    assert (batches[4][1] == batches[0][0]).all() and (batches[0][1] == batches[1][0]).all()


def test_an_engine_that_does_not_load_leaves_no_report(here: Path) -> None:
    (paths.engine(TARGET, MODELS[1]) / "class_map.onnx").write_bytes(b"broken")
    with pytest.raises(UserError, match="not the file that its manifest describes"):
        benchmark.main([TARGET])
    assert not paths.benchmark(TARGET).exists()
