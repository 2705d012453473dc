from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fake_run import MODELS, RELEASED, TARGET, complete, write_engine, write_project

from afdcd.errors import UserError
from pipeline import paths
from pipeline.params import load
from pipeline.results import Results, collect, networks, read_curve


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    write_project(root, (Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        complete()
    return root


def read(root: Path) -> Results:
    return collect(load(root / paths.PARAMS), root)


def test_reads_by_the_lists_of_params_not_by_what_lies_about(finished: Path) -> None:
    write_engine(finished / paths.engine(TARGET, "stale"), "stale", highest=2)
    results = read(finished)
    assert list(results.engines) == [(model, TARGET) for model in MODELS]
    assert list(results.networks) == MODELS and results.data.info.name == "painted"
    columns = [(row["iteration"], row["loss"], row["val_miou"]) for row in results.curves["teacher"]]
    assert columns == [(1.0, 2.5, None), (2.0, 1.5, 0.25)]
    assert results.hardware["cpu"]["model"] == "Some CPU"
    assert len(results.predictions("teacher")) == 5 and len(results.gallery("teacher", TARGET)) == 4


def test_gates_and_metrics_come_from_the_same_figures(finished: Path) -> None:
    results = read(finished)
    verdicts = {verdict.name: verdict for verdict in results.judgement().verdicts}
    assert {verdict.model for verdict in verdicts.values()} == {RELEASED}
    assert verdicts["min_gain_over_alone"].value == 0.0 and verdicts["max_drop"].value == 0.0
    assert verdicts["min_speedup_over_teacher"].status == "not gated"
    for name in ("min_agreement", "max_relative_error"):  # the fake reference is the engine itself
        assert (verdicts[name].status, verdicts[name].engine) == ("pass", "onnxruntime fp32")
    assert (verdicts["min_agreement"].value, verdicts["max_relative_error"].value) == (1.0, 0.0)
    assert verdicts["export_min_agreement"].status == "not judged"
    metrics = results.metrics()
    assert metrics["teacher"][TARGET]["miou"] == 100.0 and list(metrics) == MODELS
    assert metrics[RELEASED][TARGET]["size_mb"] == pytest.approx(
        (finished / paths.engine(TARGET, RELEASED) / "class_map.onnx").stat().st_size / 1e6, abs=1e-3
    )


def test_networks_and_their_controls(project: Path) -> None:
    params = load()
    found = networks(params)
    assert found["narrow_r18_afdcd_0"] == ("narrow_r18_afdcd_0", "narrow_r18", "afdcd", 0)
    assert found["narrow_r18_alone_0"].recipe == "alone" and found["teacher"].student is None


@pytest.mark.parametrize(
    "lost", ["reports/complexity.json", f"reports/evaluation/{TARGET}/teacher/score.json"]
)
def test_what_is_missing_is_named(finished: Path, tmp_path: Path, lost: str) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    (tmp_path / "copy" / lost).unlink()
    with pytest.raises(UserError, match=f"{lost} is missing"):
        read(tmp_path / "copy")


def test_what_is_of_another_version_is_named(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    path = tmp_path / "copy" / paths.benchmark(TARGET)
    path.write_text(path.read_text().replace('"throughput"', '"speed"'))
    with pytest.raises(UserError, match="of another version"):
        read(tmp_path / "copy")
    curve = tmp_path / "curve.csv"
    curve.write_text("iteration,loss\n1,many\n")
    with pytest.raises(UserError, match="no training curve"):
        read_curve(curve)
    with pytest.raises(UserError, match="missing"):
        read_curve(tmp_path / "none.csv")
