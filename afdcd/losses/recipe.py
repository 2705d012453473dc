"""A recipe checked against the methods it names, without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import Field, create_model

from afdcd.config import Config, Recipe
from afdcd.errors import UserError
from afdcd.losses import METHODS
from afdcd.plugins import checked_options, class_constant, require_known, validated

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class CheckedMethod(NamedTuple):
    """One method of a recipe: where its class stands, its terms of weight above 0, its options."""

    target: str
    weights: dict[str, float]
    options: dict[str, Any]


def check_recipe(recipe: Recipe, where: str) -> dict[str, CheckedMethod]:
    """Method name -> its checked settings; a term that `weights` leaves out has no weight.

    Args:
        recipe: method name -> {"weights": {term: weight}, **options}.
        where: the recipe's place, for complaints; for instance "distill.recipes.kd".

    Raises:
        UserError: an unknown method, term or option, a missing option, an impossible value, or a term
            that belongs to two methods.
    """
    checked: dict[str, CheckedMethod] = {}
    owner: dict[str, str] = {}
    for name, settings in recipe.items():
        place = f"{where}.{name}"
        target = require_known(METHODS, name, f"distillation method in {where}:")
        options = dict(settings)
        weights = _check_weights(class_constant(target, "terms"), options.pop("weights", None), place)
        options = checked_options(target, options, place)
        for term in weights:
            if term in owner:
                raise UserError(f"{place}: {owner[term]} has a term {term!r} too; give one of them weight 0")
            owner[term] = name
        checked[name] = CheckedMethod(target, weights, options)
    return checked


def _check_weights(terms: tuple[str, ...], weights: Any, place: str) -> dict[str, float]:
    if not isinstance(weights, Mapping):
        raise UserError(f"{place}.weights must give weights to terms; the terms are {', '.join(terms)}")
    fields: dict[str, Any] = {term: (Weight, 0.0) for term in terms}
    model = create_model("Weights", __config__=Config.model_config, **fields)
    return {term: weight for term, weight in validated(model, weights, f"{place}.weights").items() if weight}
