from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import tiny

from afdcd.errors import UserError
from afdcd.losses import METHODS
from afdcd.losses.recipe import RESERVED, check_recipe, methods_of, recipe_schedule

KD: dict[str, Any] = {"weights": {"kd": 2.0}, "temperature": 1, "reduction": "pixel", "class_weighted": False}


def test_values_are_converted_to_the_annotated_types() -> None:
    (checked,) = check_recipe({"kd": {**KD, "weights": {"kd": "4e-5"}}}, "here").values()
    assert checked.target == METHODS["kd"]
    assert checked.weights == {"kd": 4e-5}
    assert checked.options == {"temperature": 1.0, "reduction": "pixel", "class_weighted": False}
    assert isinstance(checked.options["temperature"], float)


def test_terms_of_weight_zero_are_not_listed() -> None:
    for weights in ({"kd": 0}, {}):
        (checked,) = check_recipe({"kd": {**KD, "weights": weights}}, "here").values()
        assert checked.weights == {}


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"kd": 2.0}, r"here\.kd must hold the method's weights and options, not 2\.0"),
        ({"shedule": {}}, "method in here: 'shedule'; did you mean 'schedule'"),
        ({"schedule": 60}, r"here\.schedule must hold iterations and, if need be, validate_every, not 60"),
        ({"schedule": {}}, r"here\.schedule\.iterations is missing"),
        ({"schedule": {"iterations": 0}}, r"here\.schedule\.iterations = 0: .*greater than or equal to 1"),
        ({"schedule": {"iterations": 2.5}}, r"here\.schedule\.iterations = 2\.5"),
        ({"kd": KD, "resize": True}, r"here\.resize = True: valid: none, teacher_to_student"),
        ({"kd": KD, "resize": ["none"]}, r"here\.resize = \['none'\]: valid"),
        (
            {"kd": KD, "schedule": {"iterations": 9, "validate_evry": 3}},
            r"here\.schedule: unknown key 'validate_evry'; did you mean 'validate_every'",
        ),
        ({"kdd": KD}, "method in here: 'kdd'; did you mean 'kd'"),
        ({"kd": {**KD, "temprature": 1}}, r"here\.kd: unknown key 'temprature'; did you mean 'temperature'"),
        ({"kd": {**KD, "temperature": 0}}, r"here\.kd\.temperature = 0: .*greater than 0"),
        ({"kd": {**KD, "reduction": "pixels"}}, r"here\.kd\.reduction = 'pixels'.*'element'"),
        ({"kd": {**KD, "class_weighted": "perhaps"}}, r"here\.kd\.class_weighted = 'perhaps'"),
        ({"kd": {"weights": {"kd": 1.0}}}, r"here\.kd\.temperature is missing"),
        ({"kd": {**KD, "weights": {"kdd": 1.0}}}, r"here\.kd\.weights: unknown key 'kdd'; did you mean 'kd'"),
        ({"kd": {**KD, "weights": {"kd": -1.0}}}, r"here\.kd\.weights\.kd = -1\.0"),
        ({"kd": {**KD, "weights": {"kd": float("nan")}}}, r"here\.kd\.weights\.kd = nan"),
        ({"kd": {**KD, "weights": {"kd": float("inf")}}}, r"here\.kd\.weights\.kd = inf"),
        ({"kd": {**KD, "weights": 2.0}}, r"here\.kd\.weights must give weights to terms.*kd"),
        ({"kd": {key: value for key, value in KD.items() if key != "weights"}}, r"here\.kd\.weights must"),
    ],
)
def test_refusals_name_the_place_and_the_remedy(recipe: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_recipe(recipe, "here")


def test_reserved_keys_are_no_methods() -> None:
    assert not set(RESERVED) & set(METHODS)
    recipe = {"schedule": {"iterations": 6}, "kd": KD, "resize": "none"}
    assert list(check_recipe(recipe, "here")) == list(methods_of(recipe)) == ["kd"]


def test_a_recipe_without_methods_has_no_terms() -> None:
    assert check_recipe({}, "here") == check_recipe({"schedule": {"iterations": 6}}, "here") == {}


def test_a_schedule_overrides_what_it_names_and_no_more() -> None:
    shared = tiny.schedule()
    assert recipe_schedule({"kd": KD}, shared, "here") is shared
    longer = recipe_schedule({"kd": KD, "schedule": {"iterations": 60}}, shared, "here")
    assert longer == shared.model_copy(update={"iterations": 60}) and longer != shared
    both = recipe_schedule({"schedule": {"iterations": 60, "validate_every": 30}}, shared, "here")
    assert both == longer.model_copy(update={"validate_every": 30})


def test_a_term_of_two_methods_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "again", METHODS["fitnet"])
    one: dict[str, Any] = {"weights": {"feature_mse": 1.0}}
    with pytest.raises(UserError, match="fitnet has a term 'feature_mse' too"):
        check_recipe({"fitnet": one, "again": one}, "here")


def test_no_torch_is_imported() -> None:
    check = f"from afdcd.losses.recipe import check_recipe; check_recipe({{'kd': {KD}}}, 'here')"
    code = f"import sys; {check}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
