"""A recipe checked against the methods it names, without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, cast, get_args

from pydantic import Field, create_model

from afdcd.config import Config, MethodOptions, Recipe, Resize, ScheduleConfig, ScheduleOverride
from afdcd.errors import UserError
from afdcd.losses import METHODS
from afdcd.plugins import checked_options, class_constant, require_known, validated

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]

RESERVED = ("schedule", "resize", "unlabelled")
"""Keys of a recipe that are no methods; no method may be called so."""


class CheckedMethod(NamedTuple):
    """One method of a recipe: where its class stands, its terms of weight above 0, its options."""

    target: str
    weights: dict[str, float]
    options: dict[str, Any]


def methods_of(recipe: Recipe) -> dict[str, MethodOptions]:
    """The methods of a recipe, unchecked, without its reserved keys."""
    return {name: options for name, options in recipe.items() if name not in RESERVED}


def check_recipe(recipe: Recipe, where: str) -> dict[str, CheckedMethod]:
    """Method name -> its checked settings; a term that `weights` leaves out has no weight.

    A recipe without methods is a student that learns from labels alone.

    Args:
        recipe: method name -> {"weights": {term: weight}, **options}, and reserved keys, checked too.
        where: the recipe's place, for complaints; for instance "distill.recipes.kd".

    Raises:
        UserError: an unknown method, term or option, a missing option, an impossible value, or a term
            that belongs to two methods; a term that looks at labels in a recipe with unlabelled images.
    """
    schedule_override(recipe, where)
    recipe_resize(recipe, where)
    unlabelled = recipe_unlabelled(recipe, where)
    checked: dict[str, CheckedMethod] = {}
    owner: dict[str, str] = {}
    known = METHODS | dict.fromkeys(RESERVED, "")
    for name, settings in methods_of(recipe).items():
        place = f"{where}.{name}"
        target = require_known(known, name, f"distillation method in {where}:")
        if not isinstance(settings, Mapping):
            raise UserError(f"{place} must hold the method's weights and options, not {settings!r}")
        options = dict(settings)
        weights = _check_weights(class_constant(target, "terms"), options.pop("weights", None), place)
        options = checked_options(target, options, place)
        for term in weights:
            if term in owner:
                raise UserError(f"{place}: {owner[term]} has a term {term!r} too; give one of them weight 0")
            owner[term] = name
        checked[name] = CheckedMethod(target, weights, options)
    if unlabelled:
        _require_no_labels(checked, f"{where}.unlabelled")
    return checked


def schedule_override(recipe: Recipe, where: str) -> ScheduleOverride | None:
    """How long a recipe wants its students trained; None where it leaves that to all.

    Raises:
        UserError: an unknown key or an impossible value of its `schedule`.
    """
    if "schedule" not in recipe:
        return None
    given, place = recipe["schedule"], f"{where}.schedule"
    if not isinstance(given, Mapping):
        raise UserError(f"{place} must hold iterations and, if need be, validate_every, not {given!r}")
    return ScheduleOverride(**validated(ScheduleOverride, given, place))


def recipe_schedule(recipe: Recipe, shared: ScheduleConfig, where: str) -> ScheduleConfig:
    """The schedule of a recipe's students: the shared one, but for what the recipe overrides.

    Raises:
        UserError: an unknown key or an impossible value of its `schedule`.
    """
    override = schedule_override(recipe, where)
    if override is None:
        return shared
    return shared.model_copy(update=override.model_dump(exclude_none=True))


def recipe_resize(recipe: Recipe, where: str) -> Resize:
    """What a recipe does about maps of different sizes; it refuses them where it says nothing.

    Raises:
        UserError: its `resize` is no such word.
    """
    given = recipe.get("resize", "none")
    if given not in get_args(Resize):
        raise UserError(f"{where}.resize = {given!r}: valid: {', '.join(get_args(Resize))}")
    return cast(Resize, given)


def recipe_unlabelled(recipe: Recipe, where: str) -> float:
    """The share of a recipe's training images that come without labels; 0 where it says nothing.

    Raises:
        UserError: its `unlabelled` is no number from 0 to below 1.
    """
    given = recipe.get("unlabelled", 0.0)
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < 1:
        raise UserError(
            f"{where}.unlabelled = {given!r}: give the share of unlabelled images in a batch, "
            "from 0 to below 1"
        )
    return float(given)


def unlabelled_images(share: float, batch_size: int) -> int:
    """How many images of a batch come without labels."""
    return round(share * batch_size)


def _require_no_labels(checked: Mapping[str, CheckedMethod], place: str) -> None:
    """Refuse terms that look at labels, and a recipe in which nothing learns without them.

    Raises:
        UserError: naming the terms.
    """
    bound = [
        f"{name}.{term}"
        for name, method in checked.items()
        for term in class_constant(method.target, "label_terms")
        if term in method.weights
    ]
    if bound:
        raise UserError(
            f"{place}: {', '.join(bound)} looks at labels, so this recipe cannot learn from unlabelled "
            "images; set it to 0, or give these terms weight 0"
        )
    if not any(method.weights for method in checked.values()):
        raise UserError(
            f"{place}: no term has a weight, and labels alone teach nothing about unlabelled images; "
            "set it to 0"
        )


def _check_weights(terms: tuple[str, ...], weights: Any, place: str) -> dict[str, float]:
    if not isinstance(weights, Mapping):
        raise UserError(f"{place}.weights must give weights to terms; the terms are {', '.join(terms)}")
    fields: dict[str, Any] = {term: (Weight, 0.0) for term in terms}
    model = create_model("Weights", __config__=Config.model_config, **fields)
    return {term: weight for term, weight in validated(model, weights, f"{place}.weights").items() if weight}
