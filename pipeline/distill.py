"""Stage distill: a student that learns from labels and from the teacher, by a recipe.

A recipe without any weighted term is the control at a length of its own: the teacher is not even read.
"""

from __future__ import annotations

from afdcd.config import IGNORE_INDEX, ContrastForm, Recipe
from afdcd.errors import UserError
from afdcd.losses.method import Context
from afdcd.losses.objective import build_objective
from afdcd.losses.recipe import (
    check_recipe,
    recipe_schedule,
    recipe_unlabelled,
    unlabelled_images,
)
from afdcd.models.store import load_trained
from afdcd.training.distillation import DistillationTask
from afdcd.training.first_phase import FIRST_PHASE, load_first_phase
from afdcd.training.loop import Plan
from afdcd.training.task import SupervisedTask, Task
from pipeline import cli, paths
from pipeline.params import Params, load, named
from pipeline.training import Job, Parts, hash_of, run_stage, seed_of, train


def main(given: list[str]) -> None:
    """Train STUDENT by RECIPE with SEED."""
    student, recipe, seed = cli.arguments(given, "STUDENT", "RECIPE", "SEED")
    params = load()
    job = make_job(params, student, recipe, seed_of(seed))

    def make(parts: Parts) -> Task:
        return make_task(parts, params.distill.recipes[recipe], recipe, contrast=params.runtime.contrast)

    train(job, params.runtime, make)


def make_job(params: Params, student: str, recipe: str, seed: int) -> Job:
    """The work; a retrained teacher or another first phase makes it another one, which starts anew.

    Raises:
        UserError: an unknown name, or no teacher yet.
    """
    settings = named(params.distill.recipes, recipe, "recipe")
    where = f"distill.recipes.{recipe}"
    first_phase = sorted(paths.adapted(recipe).glob("state.*"))
    weights = paths.trained("teacher") / "weights.safetensors"
    schedule = recipe_schedule(settings, params.train.schedule, where)
    return Job(
        stage=f"distill/{recipe}",
        name=paths.model_id(student, recipe, seed),
        model=named(params.students, student, "student"),
        plan=Plan(schedule, params.train.practice, seed),
        size=params.deploy.export.input_size,
        fit=params.deploy.export.fit,
        inputs={
            "recipe": settings,
            "teacher": hash_of(weights) if needs_teacher(settings, where) else None,
            "adapted": {file.name: hash_of(file) for file in first_phase},
        },
        unlabelled=unlabelled_images(recipe_unlabelled(settings, where), schedule.batch_size),
    )


def needs_teacher(recipe: Recipe, where: str) -> bool:
    """Whether any term of a recipe has a weight.

    Raises:
        UserError: the recipe is impossible.
    """
    return any(method.weights for method in check_recipe(recipe, where).values())


def make_task(parts: Parts, recipe: Recipe, name: str, *, contrast: ContrastForm) -> Task:
    """The task of a recipe, with what its first phase left; the control's where no term has a weight.

    Args:
        parts: what it is made of.
        recipe: its settings.
        name: its name.
        contrast: how Af-DCD's contrast is computed.

    Raises:
        UserError: the teacher knows other classes than the data, or the recipe does not fit the networks.
    """
    where = f"distill.recipes.{name}"
    if not needs_teacher(recipe, where):
        return SupervisedTask(parts.student, parts.supervision, parts.precision)
    teacher, teacher_card = load_trained(paths.trained("teacher"))
    if teacher_card.classes != parts.manifest.info.classes:
        raise UserError(
            f"the teacher in {paths.trained('teacher')} knows other classes than {paths.PREPARED}; "
            "run dvc repro train_teacher"
        )
    weights = parts.supervision.class_weights
    context = Context(parts.student.channels, teacher.channels, IGNORE_INDEX, weights, contrast)
    objective = parts.shared(build_objective(recipe, context, where=where))
    if (state := paths.adapted(name) / FIRST_PHASE).exists():
        load_first_phase(objective, state)
    return DistillationTask(
        parts.student,
        parts.placed(teacher),
        objective,
        parts.supervision,
        parts.precision,
        parts.teacher_precision,
    )


if __name__ == "__main__":
    run_stage(main)
