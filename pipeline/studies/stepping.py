"""One recipe's training, held in a process of its own and stepped on demand, to be timed."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch

from afdcd.data.loader import Batch, training_batches
from afdcd.data.manifest import Manifest
from afdcd.errors import UserError
from afdcd.training.checkpoint import RunFolder
from afdcd.training.distributed import World
from afdcd.training.loop import Plan, Training
from afdcd.training.progress import Silent
from afdcd.training.stopping import StopRequest
from pipeline import paths
from pipeline.checks import CONTROL
from pipeline.distill import make_job, make_task
from pipeline.params import Params, load
from pipeline.training import Job, make_parts, on_device, session

ENDLESS = 2**31
"""A length that no timing reaches: neither validation nor checkpoint comes due."""


class Steps(NamedTuple):
    """What some steps took, loading and augmenting their images included, and the peak of memory so far."""

    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int


class _EnoughError(Exception):
    """Ends a training that is only timed."""


def serve(recipe: str, student: str, seed: int, pipe: Connection) -> None:
    """Build the training of `recipe` from the project's files; for every number received, take so many steps.

    Answers each number with `Steps`; the first answer, before any number, says that all is built (None) or
    what a user must mend (a sentence). 0 ends.
    """
    try:
        params = load()
        with session(params.runtime) as world, tempfile.TemporaryDirectory() as folder:
            _train(recipe, student, seed, params, world, Path(folder), pipe)
    except UserError as error:
        pipe.send(str(error))
    except (_EnoughError, EOFError):
        pass


def _train(
    recipe: str, student: str, seed: int, params: Params, world: World, folder: Path, pipe: Connection
) -> None:
    manifest = Manifest.load(paths.PREPARED)
    job = on_device(_job(recipe, student, seed, params), world)
    settings = {} if recipe == CONTROL else params.distill.recipes[recipe]
    task = make_task(make_parts(job, manifest, world), settings, recipe, contrast=params.runtime.contrast)

    def batches(start: int, stop: int) -> Iterator[Batch]:
        stream = training_batches(
            manifest,
            augment=job.plan.practice.augment,
            batch_size=job.plan.schedule.batch_size,
            seed=seed,
            start=start,
            stop=stop,
            rank=0,
            world_size=1,
            workers=0,
        )
        while count := pipe.recv():
            cpu, wall = _now(world)
            yield from islice(stream, count)  # goes on when the loop asks for more: the last step is done
            after = _now(world)
            pipe.send(Steps(after[0] - cpu, after[1] - wall, _peak(world)))
        raise _EnoughError

    training = Training(
        task,
        job.plan,
        batches=batches,
        validate=lambda network: 0.0,
        folder=RunFolder(folder, recipe, "timing"),
        world=world,
        display=Silent(),
    )
    pipe.send(None)
    training.run(StopRequest())


def _job(recipe: str, student: str, seed: int, params: Params) -> Job:
    schedule = params.train.schedule.model_copy(update={"iterations": ENDLESS, "validate_every": ENDLESS})
    practice = params.train.practice.model_copy(update={"checkpoint_every": ENDLESS})
    plan = Plan(schedule, practice, seed)
    if recipe != CONTROL:
        return replace(make_job(params, student, recipe, seed), plan=plan)
    size, fit = params.deploy.export.input_size, params.deploy.export.fit
    return Job("train_student", CONTROL, params.students[student], plan, size, fit, {})


def _now(world: World) -> tuple[float, float]:
    """CPU-seconds of this process, and the clock's."""
    if world.device.type == "cuda":
        torch.cuda.synchronize()
    return time.process_time(), time.perf_counter()


def _peak(world: World) -> int:
    if world.device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
