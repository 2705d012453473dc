from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from afdcd.errors import UserError
from afdcd.losses import METHODS
from afdcd.losses.recipe import check_recipe

KD: dict[str, Any] = {"weights": {"kd": 2.0}, "temperature": 1, "reduction": "pixel", "class_weighted": False}


def test_values_are_converted_to_the_annotated_types() -> None:
    (checked,) = check_recipe({"kd": {**KD, "weights": {"kd": "4e-5"}}}, "here").values()
    assert checked.target == METHODS["kd"]
    assert checked.weights == {"kd": 4e-5}
    assert checked.options == {"temperature": 1.0, "reduction": "pixel", "class_weighted": False}
    assert isinstance(checked.options["temperature"], float)


def test_terms_of_weight_zero_are_not_listed() -> None:
    (checked,) = check_recipe({"kd": {**KD, "weights": {"kd": 0}}}, "here").values()
    assert checked.weights == {}


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"kdd": KD}, "method in here: 'kdd'; did you mean 'kd'"),
        ({"kd": {**KD, "temprature": 1}}, r"here\.kd: unknown key 'temprature'; did you mean 'temperature'"),
        ({"kd": {**KD, "temperature": 0}}, r"here\.kd\.temperature = 0: .*greater than 0"),
        ({"kd": {**KD, "reduction": "pixels"}}, r"here\.kd\.reduction = 'pixels'.*'element'"),
        ({"kd": {**KD, "class_weighted": "perhaps"}}, r"here\.kd\.class_weighted = 'perhaps'"),
        ({"kd": {"weights": {"kd": 1.0}}}, r"here\.kd\.temperature is missing"),
        ({"kd": {**KD, "weights": {"kdd": 1.0}}}, r"here\.kd\.weights: unknown key 'kdd'; did you mean 'kd'"),
        ({"kd": {**KD, "weights": {"kd": -1.0}}}, r"here\.kd\.weights\.kd = -1\.0"),
        ({"kd": {**KD, "weights": {"kd": float("nan")}}}, r"here\.kd\.weights\.kd = nan"),
        ({"kd": {**KD, "weights": 2.0}}, r"here\.kd\.weights must give weights to terms.*kd"),
        ({"kd": {key: value for key, value in KD.items() if key != "weights"}}, r"here\.kd\.weights must"),
    ],
)
def test_refusals_name_the_place_and_the_remedy(recipe: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_recipe(recipe, "here")


def test_a_term_of_two_methods_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "again", METHODS["kd"])
    with pytest.raises(UserError, match="kd has a term 'kd' too"):
        check_recipe({"kd": KD, "again": KD}, "here")


def test_no_torch_is_imported() -> None:
    check = f"from afdcd.losses.recipe import check_recipe; check_recipe({{'kd': {KD}}}, 'here')"
    code = f"import sys; {check}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
