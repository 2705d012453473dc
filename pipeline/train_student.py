"""Stage train_student: the control, a student that learns from labels alone."""

from __future__ import annotations

from afdcd.training.loop import Plan
from afdcd.training.task import SupervisedTask
from pipeline import cli, paths
from pipeline.params import load, named
from pipeline.training import Job, run_stage, seed_of, train


def main(given: list[str]) -> None:
    """Train STUDENT with SEED."""
    student, text = cli.arguments(given, "STUDENT", "SEED")
    seed = seed_of(text)
    params = load()
    job = Job(
        stage="train_student",
        name=paths.model_id(student, "alone", seed),
        model=named(params.students, student, "student"),
        plan=Plan(params.train.schedule, params.train.practice, seed),
        size=params.deploy.export.input_size,
        fit=params.deploy.export.fit,
        inputs={},
    )
    train(
        job, params.runtime, lambda parts: SupervisedTask(parts.student, parts.supervision, parts.precision)
    )


if __name__ == "__main__":
    run_stage(main)
