from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fake_run import RELEASED, TARGET, write_engine, write_project

from afdcd.errors import UserError
from pipeline import params, paths, summary

FIGURES = {"miou": 51.234, "p50_ms": 0.5, "speedup": None, "size_mb": 12.0}


def test_the_table_has_a_line_for_every_model_and_target(
    project: Path, params_text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    deploy = params.parse(params_text).deploy
    metrics = {model: dict.fromkeys(deploy.targets, FIGURES) for model in deploy.models}
    (project / "reports").mkdir()
    (project / "reports/metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    summary.main([])
    lines = capsys.readouterr().out.splitlines()
    for target in deploy.targets:
        for model in deploy.models:
            line = next(line for line in lines if line.split()[:2] == [model, target])
            assert line.split()[2:6] == ["51.23", "0.50", "-", "12.00"]
            assert line.endswith("to release") == (model in deploy.release)
    assert lines[-2] == f"report:  {project / 'reports/report.html'}"


def test_what_lies_in_the_release_is_called_released(
    tmp_path: Path, params_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(tmp_path, params_text)
    monkeypatch.chdir(tmp_path)
    settings = params.load()

    def mark() -> str:
        figures = {model: {TARGET: FIGURES} for model in settings.deploy.models}
        (line,) = [row for row in summary.table(settings, figures).splitlines() if row.startswith(RELEASED)]
        return line.rpartition("12.00")[2].strip()

    assert mark() == "to release"
    released = paths.RELEASE / RELEASED / TARGET
    write_engine(released, RELEASED, highest=2)
    assert mark() == "to release"
    shutil.rmtree(released)
    write_engine(released, RELEASED, highest=1)
    assert mark() == "released"


def test_metrics_of_other_params_are_refused(params_text: str) -> None:
    with pytest.raises(UserError, match="lacks teacher on ort_cpu_fp32; run dvc repro"):
        summary.table(params.parse(params_text), {})


def test_before_the_first_run(project: Path) -> None:
    with pytest.raises(UserError, match="metrics.json is missing; run .*dvc repro"):
        summary.main([])
