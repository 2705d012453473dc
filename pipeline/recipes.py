"""What recipes must hold to be run: known methods and options, maps of one size, crops that fit a patch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from afdcd.config import MethodOptions, Recipe
from afdcd.errors import UserError
from afdcd.losses import METHODS
from afdcd.losses.recipe import (
    check_recipe,
    methods_of,
    recipe_schedule,
    recipe_unlabelled,
    unlabelled_images,
)
from afdcd.plugins import class_constant
from pipeline.params import Params


def complaints(params: Params) -> Iterator[str]:
    """What the recipes that run cannot do, a sentence each; torch is not imported."""
    for name in params.distill.run:
        recipe = params.distill.recipes[name]
        try:
            check_recipe(recipe, f"distill.recipes.{name}")
        except UserError as error:
            yield str(error)
        else:
            yield from _unlabelled(params, name, recipe)
        yield from _class_weights(params, name, recipe)
        yield from _strides(params, name, recipe)
        yield from _patches(params, name, recipe)


def _class_weights(params: Params, name: str, recipe: Recipe) -> Iterator[str]:
    """A term can be weighted by class only where the task is."""
    if params.train.practice.class_weights != "none":
        return
    for method, options in _methods(recipe):
        if options.get("class_weighted"):
            yield (
                f"distill.recipes.{name}.{method}.class_weighted: true is not possible with "
                "train.practice.class_weights none; set one of the two"
            )


def _unlabelled(params: Params, name: str, recipe: Recipe) -> Iterator[str]:
    """A share of unlabelled images needs images, and a batch with at least one of either kind."""
    place = f"distill.recipes.{name}"
    if not (share := recipe_unlabelled(recipe, place)):
        return
    size = recipe_schedule(recipe, params.train.schedule, place).batch_size
    if not 0 < unlabelled_images(share, size) < size:
        yield f"{place}.unlabelled: {share:g} of a batch of {size} leaves none of one kind; take another"
    if not params.dataset.unlabelled:
        yield (
            f"{place}.unlabelled: {share:g} needs images without labels; name folders below dataset.root in "
            "dataset.unlabelled, or set it to 0"
        )


def _strides(params: Params, name: str, recipe: Recipe) -> Iterator[str]:
    """A method compares maps cell by cell, so that teacher and student need one output stride.

    A recipe may bring the teacher's maps to the student's size, and KA's encoder has a `stride` of its own.
    """
    strides = {student: params.students[student].output_stride for student in params.train.students}
    teacher, resize = params.teacher.model.output_stride, _resizes(recipe)
    for (student, wanted), (method, options) in product(strides.items(), _methods(recipe)):
        own, weights = options.get("stride", 1), options.get("weights")
        if not (isinstance(own, int) and isinstance(weights, dict) and any(weights.values())):
            continue
        given = wanted if resize else teacher
        if own * given == wanted:
            continue
        place, remedies = f"distill.recipes.{name}", []
        if "stride" in options and wanted % given == 0:
            remedies.append(f"set {place}.{method}.stride: {wanted // given}")
        if not resize and wanted != teacher:
            also = f" with {method}.stride: 1" if own != 1 else ""
            remedies += [f"set {place}.resize: teacher_to_student{also}", "give both networks the same"]
        yield (
            f"{place}.{method} compares maps of one size, but students.{student} has output_stride {wanted} "
            f"and the teacher's maps {own * given}; {', or '.join(remedies)}"
        )
    if resize and len(set(strides.values())) > 1 and any(map(_has_first_phase, methods_of(recipe))):
        yield (
            f"distill.recipes.{name}.resize: one first phase serves all students, and these have several "
            "output_strides; train them in runs of their own"
        )


def _patches(params: Params, name: str, recipe: Recipe) -> Iterator[str]:
    """A crop must leave a contrast at least one patch of pooled cells at the network's stride."""
    crop = params.train.practice.augment.crop
    compared = [params.students[student] for student in params.train.students]
    if not _resizes(recipe):
        compared.append(params.teacher.model)
    stride = max(model.output_stride for model in compared)
    for method, options in _methods(recipe):
        pool, patch = options.get("pool"), options.get("patch_size")
        if not (isinstance(pool, int) and isinstance(patch, int) and pool > 0):
            continue
        cells = [-(-side // stride) // pool for side in crop]
        if min(cells) < patch:
            least = stride * pool * patch
            yield (
                f"train.practice.augment.crop: {crop[0]}x{crop[1]} is smaller than one contrast patch: "
                f"stride {stride} and pool {pool} leave {cells[0]}x{cells[1]} cells, and "
                f"distill.recipes.{name}.{method}.patch_size is {patch}; take at least {least}x{least}, "
                "or a smaller pool or patch_size"
            )


def _methods(recipe: Recipe) -> list[tuple[str, MethodOptions]]:
    """A recipe's methods, but for those that hold no options at all, which `check_recipe` refuses."""
    return [(name, options) for name, options in methods_of(recipe).items() if isinstance(options, dict)]


def _resizes(recipe: Recipe) -> bool:
    return recipe.get("resize") == "teacher_to_student"


def _has_first_phase(method: str) -> bool:
    return method in METHODS and bool(class_constant(METHODS[method], "has_first_phase"))
