from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_run import CLASSES, TARGET, write_project, write_references
from PIL import Image

from afdcd.errors import UserError
from afdcd.files import read_json, sha256
from deploy.evaluate import Evaluation, Score
from deploy.maps import load_maps, save_maps
from pipeline import evaluate, paths
from pipeline.scoring import save


@pytest.fixture
def here(tmp_path: Path, params_text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_project(tmp_path, params_text)
    monkeypatch.chdir(tmp_path)
    write_references()
    return tmp_path


def test_scores_the_test_split_on_the_engine(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.main([TARGET, "teacher"])
    evaluate.main([TARGET, "narrow_r18_kd_0"])
    teacher = read_json(paths.evaluation(TARGET, "teacher") / "score.json")
    assert teacher["miou"] == 1.0 and teacher["agreement"] == 1.0 and teacher["images"] == 5
    assert teacher["max_relative_error"] == 0.0
    student = read_json(paths.evaluation(TARGET, "narrow_r18_kd_0") / "score.json")
    labels = [np.asarray(Image.open(path)) for path in sorted(Path("data/prepared/mask").glob("test_*"))]
    skies, cars = (sum(int((mask == index).sum()) for mask in labels) for index in (1, 2))
    assert student["iou"] == {"road": 1.0, "sky": pytest.approx(skies / (skies + cars)), "car": 0.0}
    assert student["engine"] == sha256(paths.engine(TARGET, "narrow_r18_kd_0") / "manifest.json")
    assert student["classes"] == CLASSES
    assert "mIoU 100.00" in capsys.readouterr().out


def test_keeps_the_first_four_class_maps(here: Path) -> None:
    evaluate.main([TARGET, "teacher"])
    maps = load_maps(paths.evaluation(TARGET, "teacher") / "gallery.npz")
    assert list(maps) == [f"test_{index}" for index in range(4)]
    assert np.array_equal(maps["test_0"], np.asarray(Image.open("data/prepared/mask/test_0.png")))


def test_the_same_run_writes_the_same_bytes(here: Path) -> None:
    folder = paths.evaluation(TARGET, "teacher")
    evaluate.main([TARGET, "teacher"])
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    evaluate.main([TARGET, "teacher"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_an_altered_engine_is_refused(here: Path) -> None:
    path = paths.engine(TARGET, "teacher") / "class_map.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UserError, match="not the file that its manifest describes"):
        evaluate.main([TARGET, "teacher"])
    assert not paths.evaluation(TARGET, "teacher").exists()


def test_an_engine_of_other_classes_is_refused(here: Path) -> None:
    path = paths.PREPARED / "dataset.json"
    path.write_text(path.read_text().replace('"car"', '"bus"'))
    with pytest.raises(UserError, match="knows the classes road, sky, car; .* has road, sky, bus"):
        evaluate.main([TARGET, "teacher"])


def test_logits_are_held_against_pytorchs(here: Path) -> None:
    path = paths.reference("teacher") / "logits.npz"
    wanted = load_maps(path)
    assert list(wanted) == [f"test_{index}" for index in range(4)]
    largest = max(float(np.abs(logits).max()) for logits in wanted.values())
    save_maps(path, {**wanted, "test_1": wanted["test_1"] - largest / 100})
    evaluate.main([TARGET, "teacher"])
    found = read_json(paths.evaluation(TARGET, "teacher") / "score.json")["max_relative_error"]
    assert found == pytest.approx(0.01 / 1.01, rel=1e-3)
    path.unlink()
    with pytest.raises(UserError, match=r"logits.npz is missing; run dvc repro"):
        evaluate.main([TARGET, "teacher"])


def test_missing_or_broken_predictions_are_named(here: Path) -> None:
    path = paths.reference("teacher") / "predictions.npz"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="predictions.npz cannot be read"):
        evaluate.main([TARGET, "teacher"])
    path.unlink()
    with pytest.raises(UserError, match="predictions.npz is missing"):
        evaluate.main([TARGET, "teacher"])


def test_a_sample_may_have_any_name(tmp_path: Path) -> None:
    score = Score(
        classes=["road"],
        images=1,
        input_size=(2, 2),
        fit="stretch",
        miou=1.0,
        pixel_accuracy=1.0,
        iou={"road": 1.0},
        agreement=None,
        lowest_agreement=None,
        confusion=[[4]],
        engine=None,
    )
    maps = {name: np.full((2, 2), i, np.uint8) for i, name in enumerate(["file", "a/b", "map:x", "x.npy"])}
    save(tmp_path / "scores", Evaluation(score, maps), "maps.npz")
    loaded = load_maps(tmp_path / "scores" / "maps.npz")
    assert {name: int(class_map[0, 0]) for name, class_map in loaded.items()} == dict(
        zip(maps, range(4), strict=True)
    )
