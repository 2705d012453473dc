from __future__ import annotations

from typing import Any

import pytest
import torch
from contracts.method import STUDENT, TEACHER, output, target

from afdcd.errors import UserError
from afdcd.losses.kd import LogitKD
from afdcd.losses.method import Context
from afdcd.losses.objective import Objective, build_objective, furthest
from afdcd.models.output import ChannelSpec

KD: dict[str, Any] = {
    "weights": {"kd": 2.0},
    "temperature": 1.0,
    "reduction": "pixel",
    "class_weighted": False,
}
AFDCD: dict[str, Any] = {
    "weights": {"masked_feature": 0.5, "omni_contrast": 0.25},
    "mask_ratio": 0.75,
    "bottleneck": None,
    "pool": 1,
    "patch_size": 2,
    "patch_fraction": 1.0,
    "groups": 4,
    "temperature": 0.07,
    "distance": "l1",
    "negatives": "cross_group",
    "reduction": "sum",
}
CONTEXT = Context(STUDENT, TEACHER, 255, None)


def test_terms_of_all_methods_by_name_and_by_weight() -> None:
    objective = build_objective({"kd": KD, "afdcd": AFDCD}, CONTEXT)
    terms = objective(output(STUDENT, 1), output(TEACHER, 2), target())
    assert list(terms) == ["kd", "masked_feature", "omni_contrast"]
    expected = 2 * terms["kd"] + 0.5 * terms["masked_feature"] + 0.25 * terms["omni_contrast"]
    torch.testing.assert_close(objective.total(terms), expected)
    assert (objective.student_stop, objective.teacher_stop) == ("logits", "logits")
    assert objective.side_losses(output(STUDENT, 1), output(TEACHER, 2), target()) == {}
    assert len(objective.param_groups()) == 1


def test_side_losses_of_all_methods_by_name() -> None:
    skd = {"weights": {"adversarial": 1.0}, "pool": 2, "discriminator_weight": 0.1, "discriminator_width": 4}
    objective = build_objective({"skd": skd, "kd": KD}, CONTEXT)
    assert set(objective.side_losses(output(STUDENT, 1), output(TEACHER, 2), target())) == {"discriminator"}


def test_student_and_teacher_have_stops_of_their_own() -> None:
    method = LogitKD(CONTEXT, temperature=1.0, reduction="pixel", class_weighted=False)
    method.teacher_stop = "head_features"  # type: ignore[misc]
    objective = Objective({"kd": method}, {"kd": 1.0})
    assert (objective.student_stop, objective.teacher_stop) == ("logits", "head_features")


def test_stops_are_no_further_than_needed() -> None:
    objective = build_objective({"afdcd": AFDCD}, CONTEXT)
    assert (objective.student_stop, objective.teacher_stop) == ("features", "features")
    assert furthest(["features", "logits", "head_features"]) == "logits"
    assert furthest(["features", "head_features"]) == "head_features"
    assert furthest([]) == "features"


def test_methods_and_terms_without_weight_are_left_out() -> None:
    half = {**AFDCD, "weights": {"masked_feature": 1.0}}
    objective = build_objective({"kd": {**KD, "weights": {"kd": 0.0}}, "afdcd": half}, CONTEXT)
    assert list(objective.methods) == ["afdcd"]
    assert set(objective(output(STUDENT, 1), output(TEACHER, 2), target())) == {"masked_feature"}


def test_maps_of_other_sizes_are_brought_together_where_asked() -> None:
    student, teacher = output(STUDENT, 1), output(TEACHER, 2, (12, 16))
    found = build_objective({"kd": KD, "resize": "teacher_to_student"}, CONTEXT)(student, teacher, target())
    assert found["kd"].isfinite()
    with pytest.raises(UserError, match="12, 16"):
        build_objective({"kd": KD}, CONTEXT)(student, teacher, target())


def test_empty_recipe_costs_nothing() -> None:
    objective = build_objective({}, CONTEXT)
    assert objective.total(objective(output(STUDENT, 1), output(TEACHER, 2), target())).item() == 0


def test_a_method_without_weight_is_still_checked() -> None:
    with pytest.raises(UserError, match="temperature"):
        build_objective({"kd": {**KD, "weights": {"kd": 0.0}, "temperature": -1}}, CONTEXT)


def test_terms_and_weights_must_agree() -> None:
    context = Context(ChannelSpec((4,), 4, 3), ChannelSpec((4,), 4, 3), 255, None)
    method = LogitKD(context, temperature=1.0, reduction="pixel", class_weighted=False)
    method.active = frozenset({"kd"})
    with pytest.raises(ValueError, match="terms"):
        Objective({"kd": method}, {"dk": 1.0})
    with pytest.raises(ValueError, match="terms"):
        Objective({"one": method, "two": method}, {"kd": 1.0})


def test_class_weights_move_and_are_not_saved() -> None:
    context = CONTEXT._replace(class_weights=torch.ones(3, dtype=torch.float64))
    objective = build_objective({"kd": {**KD, "class_weighted": True}}, context)
    assert objective.state_dict() == {}
    assert [name for name, _ in objective.named_buffers()] == ["methods.kd.class_weight"]
