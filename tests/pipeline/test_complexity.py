from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from afdcd.errors import UserError
from pipeline import params
from pipeline.complexity import main

Edited = Callable[[dict[str, Any]], str]
GROUPS = "distill.recipes.afdcd.afdcd.groups"


@pytest.fixture
def prepared_project(project: Path) -> Path:
    """The project with as much of the prepared data as the stage reads."""
    (project / "data/prepared").mkdir(parents=True)
    (project / "data/prepared/dataset.json").write_text(json.dumps({"classes": ["road", "sky", "car"]}))
    return project


def test_it_counts_teacher_and_students(prepared_project: Path) -> None:
    settings = params.load()
    main([])
    found = json.loads(Path("reports/complexity.json").read_text())
    assert found["input_size"] == list(settings.deploy.export.input_size)
    assert set(found["networks"]) == {"teacher", *settings.students}
    assert "multiply-accumulates" in found["rule"]
    for counts in found["networks"].values():
        assert 0 < counts["parameters"] < counts["training_parameters"]
        assert 0 < counts["conv_gmacs"] < counts["training_conv_gmacs"]
        assert counts["conv_gmacs"] <= counts["gmacs"] < 1.05 * counts["conv_gmacs"]
    teacher, student = found["networks"]["teacher"], found["networks"][next(iter(settings.students))]
    assert student["gmacs"] < teacher["gmacs"]


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        (
            {GROUPS: 7},
            "distill.recipes.afdcd does not fit narrow_r18 and its teacher: .*7 groups do not divide",
        ),
        ({"teacher.model.backbone_options.stem_width": "wide"}, "resnet18"),
    ],
)
def test_what_only_torch_can_see_is_refused_before_training(
    prepared_project: Path, edited: Edited, edits: dict[str, Any], said: str
) -> None:
    (prepared_project / "params.yaml").write_text(edited(edits), encoding="utf-8")
    with pytest.raises(UserError, match=said):
        main([])
    assert not (prepared_project / "reports").exists()


def test_a_recipe_that_does_not_run_may_not_fit(prepared_project: Path, edited: Edited) -> None:
    edits = {GROUPS: 7, "distill.run": ["kd"], "deploy.models": ["teacher"], "deploy.release": []}
    (prepared_project / "params.yaml").write_text(edited(edits), encoding="utf-8")
    main([])
    assert (prepared_project / "reports/complexity.json").exists()
