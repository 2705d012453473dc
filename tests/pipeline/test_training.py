from __future__ import annotations

import shutil
from typing import Any

import pytest
import tiny
from trainer import StoppedError, card, curve, weights, write

from afdcd.data.manifest import Manifest
from pipeline import distill, paths, train_student, train_teacher
from pipeline.params import load
from pipeline.training import job_key


def test_teacher_control_and_distilled_student_leave_weights_card_and_curve(taught: dict[str, Any]) -> None:
    train_student.main(["tiny", "0"])
    distill.main(["tiny", "afdcd", "0"])
    for model in ("teacher", "tiny_alone_0", "tiny_afdcd_0"):
        facts = card(model)
        assert facts["classes"] == list(tiny.CLASSES) and facts["iterations"] == 8
        assert facts["iteration"] in (4, 8) and 0 < facts["val_miou"] <= 1
        rows = curve(model)
        assert [int(row["iteration"]) for row in rows] == list(range(1, 9))
        assert max(float(row["val_miou"]) for row in rows if row["val_miou"]) == facts["val_miou"]
    assert {"kd", "masked_feature", "weighted/omni_contrast"} <= curve("tiny_afdcd_0")[0].keys()
    assert "kd" not in curve("tiny_alone_0")[0]
    assert not list(paths.RUNS.iterdir())


def test_the_seed_decides(params: dict[str, Any]) -> None:
    for seed in "01":
        train_student.main(["tiny", seed])
    assert weights("tiny_alone_0") != weights("tiny_alone_1")
    first = weights("tiny_alone_0")
    train_student.main(["tiny", "0"])
    assert weights("tiny_alone_0") == first


def test_decoded_images_are_kept_and_change_no_weight(params: dict[str, Any]) -> None:
    train_student.main(["tiny", "0"])
    (made,) = paths.DECODED.glob("*/train.u8")
    assert made.stat().st_size == 12 * 32 * 64 * 4
    kept = weights("tiny_alone_0")
    shutil.rmtree(paths.DECODED)
    params["runtime"]["cache_gb"] = 0
    write(params)
    train_student.main(["tiny", "0"])
    assert weights("tiny_alone_0") == kept and not paths.DECODED.exists()


def test_the_best_is_chosen_at_the_geometry_that_ships(
    taught: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    taught["deploy"]["export"] |= {"input_size": [16, 48], "fit": "letterbox"}
    write(taught)
    seen: list[tuple[Any, Any]] = []

    def record(*arguments: Any, size: Any, mode: Any, **others: Any) -> None:
        seen.append((size, mode))
        raise StoppedError

    monkeypatch.setattr("pipeline.training.Validation", record)
    for stage, given in ((train_teacher, []), (train_student, ["tiny", "0"]), (distill, ["tiny", "kd", "0"])):
        with pytest.raises(StoppedError):
            stage.main(given)
    taught["teacher"]["checkpoint"] = str(paths.trained("teacher") / "weights.safetensors")
    write(taught)
    with pytest.raises(StoppedError):
        train_teacher.main([])
    assert seen == [((16, 48), "letterbox")] * 4


def key(params: dict[str, Any]) -> str:
    write(params)
    return job_key(distill.make_job(load(), "tiny", "kd", 0), Manifest.load(paths.PREPARED))


def test_the_key_holds_all_that_the_stage_depends_on_and_no_more(taught: dict[str, Any]) -> None:
    keys = [key(taught)]
    taught["runtime"] |= {"workers": 3, "threads": 2, "processes": 2}
    taught["distill"]["recipes"]["afdcd"]["kd"]["temperature"] = 9.0
    assert key(taught) == keys[0]

    teacher = paths.trained("teacher") / "weights.safetensors"
    teacher.write_bytes(teacher.read_bytes()[:-1] + b"x")
    keys.append(key(taught))
    (paths.FINGERPRINTS / "distill/kd.json").write_text('{"changed": 1}')
    keys.append(key(taught))
    (paths.adapted("kd") / "state.json").write_text('{"methods": ["kd"]}')
    keys.append(key(taught))
    taught["train"]["practice"] = tiny.PRACTICE | {"precision": "bf16"}
    keys.append(key(taught))
    taught["distill"]["recipes"]["kd"]["kd"] = tiny.RECIPES["kd"]["kd"] | {"temperature": 3.0}
    keys.append(key(taught))
    taught["distill"]["recipes"]["kd"]["schedule"] = {"iterations": 9}
    keys.append(key(taught))
    taught["deploy"]["export"]["input_size"] = [48, 64]
    keys.append(key(taught))
    taught["deploy"]["export"]["fit"] = "letterbox"
    keys.append(key(taught))
    assert len(set(keys)) == len(keys)
