"""Stage train_teacher: train the teacher, or take over one that is given as a checkpoint."""

from __future__ import annotations

from pathlib import Path

from afdcd.data.manifest import Manifest
from afdcd.models.store import import_checkpoint, save_trained
from afdcd.training.curve import write_curve
from afdcd.training.loop import Outcome, Plan
from afdcd.training.task import SupervisedTask
from pipeline import cli, paths
from pipeline.params import load
from pipeline.training import Job, card, on_device, run_stage, session, train, validation

NAME = "teacher"


def main(given: list[str]) -> None:
    """Train or import."""
    cli.arguments(given)
    params = load()
    teacher = params.teacher
    job = Job(
        stage="train_teacher",
        name=NAME,
        model=teacher.model,
        plan=Plan(teacher.schedule, params.train.practice, teacher.seed),
        size=params.deploy.export.input_size,
        fit=params.deploy.export.fit,
        inputs={},
    )
    if teacher.checkpoint is not None:
        with session(params.runtime) as world:
            job = on_device(job, world)
            manifest = Manifest.load(paths.PREPARED)
            network = import_checkpoint(
                Path(teacher.checkpoint), teacher.model, manifest.info.classes, teacher.format
            )
            miou = validation(job, manifest, world, bf16=False)(network.to(world.device))
            if world.leads:
                facts = card(job, manifest, world, Outcome(0, miou, 0.0, []))
                facts = facts.model_copy(update={"iterations": 0, "precision": "fp32"})
                save_trained(paths.trained(NAME), network, facts)
                write_curve(paths.curve(NAME), [])
        return
    train(
        job, params.runtime, lambda parts: SupervisedTask(parts.student, parts.supervision, parts.precision)
    )


if __name__ == "__main__":
    run_stage(main)
