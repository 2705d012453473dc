from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trainer import card, curve, weights, write

from afdcd.errors import UserError
from pipeline import adapt, distill, paths, train_teacher


def test_a_teacher_given_as_a_checkpoint_is_taken_over(params: dict[str, Any], tmp_path: Path) -> None:
    train_teacher.main([])
    given, before = tmp_path / "given", card("teacher")
    paths.trained("teacher").rename(given)
    params["teacher"]["checkpoint"] = str(given / "weights.safetensors")
    write(params)
    train_teacher.main([])
    assert weights("teacher") == (given / "weights.safetensors").read_bytes()
    assert card("teacher")["val_miou"] == pytest.approx(before["val_miou"])
    assert card("teacher")["iterations"] == 0 and curve("teacher") == []


def test_a_teacher_checkpoint_of_other_classes_is_refused(params: dict[str, Any]) -> None:
    train_teacher.main([])
    paths.trained("teacher").rename("given")
    info = json.loads((paths.PREPARED / "dataset.json").read_text())
    info["classes"].append("tree")
    for field in ("class_pixels", "class_image_pixels"):
        info[field] = {split: [*counts, 1] for split, counts in info[field].items()}
    info["palette"].append([0, 1, 0])
    (paths.PREPARED / "dataset.json").write_text(json.dumps(info))
    params["teacher"]["checkpoint"] = "given"
    write(params)
    with pytest.raises(UserError, match="has 3 classes, the data have 4"):
        train_teacher.main([])
    Path("given").rename(paths.trained("teacher"))
    adapt.main(["kd"])
    with pytest.raises(UserError, match="knows other classes"):
        distill.main(["tiny", "kd", "0"])
