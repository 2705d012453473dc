from __future__ import annotations

import pytest
from clone import ROOT

from pipeline import configure, params
from pipeline.studies import definition, plan

STUDY = definition.load("smoke", ROOT)
STEP = {"alone": 0.010, "kd": 0.020, "idd": 0.045}


def test_equal_time_is_the_budget_recipes() -> None:
    assert plan.equal_time_iterations(STUDY, STEP) == {"alone": 12, "kd": 6, "idd": 3}


def test_no_recipe_is_too_costly_for_one_iteration() -> None:
    assert plan.equal_time_iterations(STUDY, STEP | {"idd": 9.0})["idd"] == 1


@pytest.mark.parametrize(("iterations", "looks"), [(400, 4), (813, 4), (70, 4), (4, 4), (1, 1)])
def test_every_length_is_validated_equally_often(iterations: int, looks: int) -> None:
    study = STUDY.model_copy(update={"validations": 4})
    every = plan.validate_every(study, iterations)
    assert len({*range(every, iterations + 1, every), iterations}) == looks


def test_a_run_that_is_the_same_in_both_arms_is_trained_once() -> None:
    lengths = plan.equal_time_iterations(STUDY, STEP)
    trained = plan.trainings(STUDY, "net", lengths)
    assert len(trained) == len(set(trained)) == 2 * (3 + 2)
    assert [run.seed for run in trained] == [0] * 5 + [1] * 5
    assert [run.stage for run in trained[:5]] == [
        "train_student@net-0",
        "distill@net-kd-0",
        "distill@net-idd-0",
        "distill@net-alone_equal_time-0",
        "distill@net-idd_equal_time-0",
    ]
    second = plan.runs(STUDY, "net", plan.EQUAL_TIME, lengths)
    assert [run.model for run in second[:3]] == ["net_alone_equal_time_0", "net_kd_0", "net_idd_equal_time_0"]
    assert [run.iterations for run in second[:3]] == [12, 6, 3]


def test_the_second_arms_params_are_valid_and_leave_the_first_arms_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    first = params.parse(configure.compose(plan.overrides(STUDY)).body)
    lengths = plan.equal_time_iterations(STUDY, STEP)
    values = plan.with_equal_time(first.model_dump(mode="json"), STUDY, lengths)
    text = plan.dumped(values, ["a header"])
    both = params.parse(text)
    assert text.startswith("# a header\n\n")
    assert both.distill.run == ["kd", "idd", "alone_equal_time", "idd_equal_time"]
    recipes = both.distill.recipes
    assert recipes["kd"] == first.distill.recipes["kd"] and recipes["idd"] == first.distill.recipes["idd"]
    assert recipes["alone_equal_time"] == {"schedule": {"iterations": 12, "validate_every": 6}}
    own = {"schedule": {"iterations": 3, "validate_every": 2}}
    assert recipes["idd_equal_time"] == first.distill.recipes["idd"] | own
    assert both.train == first.train and both.teacher == first.teacher
