from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import tiny
import yaml
from clone import ROOT

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


LABELLED = {
    "ifvd": (["intra_class"], "ifvd.intra_class"),
    "idd": (["inter_class_distance", "position_information"], "idd.inter_class_distance"),
    "cirkd": (["mini_batch_pixel", "memory_pixel"], "cirkd.memory_pixel"),
}


@pytest.mark.parametrize("method", LABELLED)
def test_terms_that_look_at_labels_are_refused_with_unlabelled_images(method: str) -> None:
    names, said = LABELLED[method]
    options = checked_preset(method)
    recipe = {"kd": KD, method: options | {"weights": dict.fromkeys(names, 1.0)}, "unlabelled": 0.5}
    with pytest.raises(UserError, match=rf"here\.unlabelled: {said} looks at labels, so this recipe cannot"):
        check_recipe(recipe, "here")
    check_recipe(recipe | {"unlabelled": 0}, "here")
    free = {name: float(f"{method}.{name}" not in said) for name in names}
    check_recipe(recipe | {method: options | {"weights": free}}, "here")


def checked_preset(method: str) -> dict[str, Any]:
    """The options of a method in its preset, with 1 for what the preset takes from elsewhere."""
    text = (ROOT / f"conf/recipe/{method}.yaml").read_text(encoding="utf-8")
    options: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{preset\.\w+\}", "1", text))[method]
    return options


@pytest.mark.parametrize("share", [1, 1.5, -0.1, True, "half", None])
def test_an_impossible_share_of_unlabelled_images_is_refused(share: Any) -> None:
    with pytest.raises(UserError, match=r"here\.unlabelled = .*: give the share .* from 0 to below 1"):
        check_recipe({"kd": KD, "unlabelled": share}, "here")


def test_labels_alone_teach_nothing_about_unlabelled_images() -> None:
    for recipe in ({}, {"kd": KD | {"weights": {"kd": 0.0}}}):
        with pytest.raises(UserError, match=r"here\.unlabelled: no term has a weight"):
            check_recipe(recipe | {"unlabelled": 0.5}, "here")


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
