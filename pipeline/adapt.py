"""Stage adapt: the first phase of a recipe's methods on the frozen teacher; most recipes have none."""

from __future__ import annotations

from afdcd.config import IGNORE_INDEX
from afdcd.errors import UserError
from afdcd.files import atomic_folder, write_json
from afdcd.losses import METHODS
from afdcd.losses.recipe import methods_of
from afdcd.plugins import class_constant
from pipeline import cli, paths
from pipeline.params import Params, load, named


def main(given: list[str]) -> None:
    """Prepare RECIPE; without a first phase only a note is written, and torch is not imported."""
    (recipe,) = cli.arguments(given, "RECIPE")
    params = load()
    chosen = methods_of(named(params.distill.recipes, recipe, "recipe"))
    methods = [name for name in chosen if class_constant(METHODS[name], "has_first_phase")]
    if methods:
        _prepare(recipe, methods, params)
        return
    with atomic_folder(paths.adapted(recipe)) as folder:
        write_json(folder / "state.json", {"methods": []})


def _prepare(recipe: str, methods: list[str], params: Params) -> None:
    """Run the methods' first phases and save what they changed.

    The phases look at the teacher alone: its channels stand for the student's, and distill takes over
    only what a phase changed. Where the recipe resizes the teacher's maps they are learnt from at that size.
    """
    import safetensors.torch
    import torch

    from afdcd.data.decoded import open_decoded
    from afdcd.data.loader import training_batches
    from afdcd.data.manifest import Manifest
    from afdcd.losses.method import Context
    from afdcd.losses.objective import build_objective
    from afdcd.losses.resize import AtStride
    from afdcd.models.store import load_trained
    from afdcd.training.first_phase import FIRST_PHASE, run_first_phase
    from pipeline.training import session

    with session(params.runtime) as world:
        manifest = Manifest.load(paths.PREPARED)
        teacher, _ = load_trained(paths.trained("teacher"))
        teacher = teacher.to(world.device)
        practice = params.train.practice
        weights = manifest.class_weights(practice.class_weights)
        class_weights = None if weights is None else torch.from_numpy(weights).float()
        context = Context(teacher.channels, teacher.channels, IGNORE_INDEX, class_weights)
        torch.manual_seed(params.teacher.seed)
        objective = build_objective(params.distill.recipes[recipe], context).to(world.device)
        batches = training_batches(
            manifest,
            augment=practice.augment,
            batch_size=params.teacher.schedule.batch_size,
            seed=params.teacher.seed,
            start=0,
            stop=2**31,
            rank=0,
            world_size=1,
            workers=params.runtime.workers,
            decoded=open_decoded(manifest, paths.DECODED, params.runtime.cache_gb * 1e9),
        )
        images = (batch.images.to(world.device) for batch in batches)
        seen = teacher if objective.resize == "none" else AtStride(teacher, _student_stride(recipe, params))
        tensors = run_first_phase(objective, methods, seen, images)
    with atomic_folder(paths.adapted(recipe)) as folder:
        write_json(folder / "state.json", {"methods": methods})
        (folder / FIRST_PHASE).write_bytes(safetensors.torch.save(tensors))


def _student_stride(recipe: str, params: Params) -> int:
    """The output stride that all students share, as one first phase serves them all.

    Raises:
        UserError: they have several.
    """
    strides = {params.students[name].output_stride for name in params.train.students}
    if len(strides) > 1:
        raise UserError(
            f"distill.recipes.{recipe}: resize with a first phase needs students of one output_stride, "
            f"not {', '.join(map(str, sorted(strides)))}"
        )
    return strides.pop()


if __name__ == "__main__":
    cli.run(main)
