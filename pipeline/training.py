"""What the three training stages share: from params and files to a task, and from its outcome to files."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from afdcd.config import ModelConfig, RuntimeConfig, Size
from afdcd.data.decoded import open_decoded
from afdcd.data.loader import Batch, training_batches
from afdcd.data.manifest import Manifest
from afdcd.errors import UserError
from afdcd.files import disk_errors, sha256
from afdcd.geometry import Fit
from afdcd.models.segmenter import Segmenter, build_segmenter
from afdcd.models.store import ModelCard, save_trained
from afdcd.training.checkpoint import RunFolder, run_key
from afdcd.training.curve import write_curve
from afdcd.training.distributed import World, join
from afdcd.training.loop import Outcome, Plan, Training
from afdcd.training.memory import keep_freed_memory
from afdcd.training.ownership import own
from afdcd.training.precision import Precision, settled
from afdcd.training.progress import progress
from afdcd.training.stopping import listening
from afdcd.training.task import Supervision, Task
from afdcd.training.validation import Validation
from pipeline import cli, paths
from pipeline.launch import count_threads
from pipeline.parent import LOST_PEER

Module = TypeVar("Module", bound=nn.Module)

_LOST_PEER = re.compile(r"Connection (closed|reset)|peer|Gloo|NCCL", re.IGNORECASE)


@dataclass(frozen=True)
class Job:
    """One training stage's work.

    Attributes:
        stage: the stage's fingerprint, a path below fingerprints/ without suffix.
        name: the model's id.
        model: the network to train.
        plan: how it is trained.
        size: (height, width) of its input as it ships, at which it is validated.
        fit: how images are brought to that size.
        inputs: hashes and settings of all else that the result depends on.
        unlabelled: images of each batch that come without labels.
    """

    stage: str
    name: str
    model: ModelConfig
    plan: Plan
    size: Size
    fit: Fit
    inputs: dict[str, Any]
    unlabelled: int = 0


class Parts(NamedTuple):
    """What a task is made of, on the device it works on."""

    world: World
    manifest: Manifest
    student: Segmenter
    supervision: Supervision
    precision: Precision
    teacher_precision: Precision
    layout: torch.memory_format
    sync_bn: bool

    def shared(self, module: Module) -> Module:
        """A trained module, on the device, with batch statistics of all processes where `sync_bn` says so."""
        if self.sync_bn:
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return module.to(self.world.device)

    def placed(self, network: Segmenter) -> Segmenter:
        """A network (a teacher) moved to the device, in the layout that the student has."""
        placed: Segmenter = network.to(self.world.device).to(memory_format=self.layout)
        return placed


def train(job: Job, runtime: RuntimeConfig, make_task: Callable[[Parts], Task]) -> None:
    """Train a network, going on where a killed run of the very same job stood; write weights, card and curve.

    Raises:
        UserError: see `afdcd.training.loop.Training`; another process trains the same network.
    """
    with ExitStack() as stack:
        world = stack.enter_context(session(runtime))
        # Not before: a process that waits for its peers in vain must die of SIGTERM.
        request = stack.enter_context(listening())
        job = on_device(job, world)
        manifest = Manifest.load(paths.PREPARED)
        folder = RunFolder(paths.RUNS, job.name, job_key(job, manifest))
        world = own(folder, world, stack)
        iterations = job.plan.schedule.iterations
        display = stack.enter_context(progress(job.name, iterations, shown=world.leads))
        task = make_task(make_parts(job, manifest, world))
        outcome = Training(
            task,
            job.plan,
            batches=_batches(job, manifest, world, runtime),
            validate=validation(job, manifest, world),
            folder=folder,
            world=world,
            display=display,
        ).run(request)
        if world.writes:
            save_trained(paths.trained(job.name), task.student, card(job, manifest, world, outcome))
            write_curve(paths.curve(job.name), outcome.rows)
        # A process killed up to here finds the checkpoint when it starts again.
        world.barrier()
        if world.writes:
            folder.remove()


@contextmanager
def session(runtime: RuntimeConfig) -> Iterator[World]:
    """The processes of this stage, with threads and log set up."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(count_threads(runtime, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    with join(runtime.device) as world:
        if world.device.type == "cpu":
            keep_freed_memory()
        yield world


def on_device(job: Job, world: World) -> Job:
    """The job with the precisions that "auto" means on this device: a checkpoint of others is none of it."""
    return replace(job, plan=replace(job.plan, practice=settled(job.plan.practice, world.device.type)))


def job_key(job: Job, manifest: Manifest) -> str:
    """The key of a job's checkpoint: settings, data, code, and the hashes of its other inputs."""
    return run_key(
        {
            "stage": job.stage,
            "code": hash_of(paths.FINGERPRINTS / f"{job.stage}.json"),
            "model": job.model.model_dump(mode="json"),
            "pretrained": sha256(file) if (file := Path(job.model.pretrained)).is_file() else None,
            "schedule": job.plan.schedule.model_dump(mode="json"),
            "practice": job.plan.practice.model_dump(mode="json"),
            "seed": job.plan.seed,
            "geometry": [*job.size, job.fit],
            "data": manifest.sha256,
            "torch": torch.__version__,
            **job.inputs,
        }
    )


def seed_of(text: str) -> int:
    """A seed as the command line gives it.

    Raises:
        UserError: it is not a whole number from 0.
    """
    if not text.isdecimal():
        raise UserError(f"SEED must be a whole number from 0, got {text!r}")
    return int(text)


def hash_of(path: Path) -> str:
    """SHA-256 of a file that an earlier stage wrote.

    Raises:
        UserError: it is missing.
    """
    try:
        return sha256(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the stage that makes it (dvc repro)") from None


def card(job: Job, manifest: Manifest, world: World, outcome: Outcome) -> ModelCard:
    """The card of what was trained."""
    return ModelCard(
        model=job.model,
        num_classes=manifest.num_classes,
        classes=manifest.info.classes,
        iteration=outcome.best_iteration,
        val_miou=outcome.val_miou,
        iterations=job.plan.schedule.iterations,
        world_size=world.size,
        device=world.device.type,
        precision=job.plan.practice.precision,
        torch_version=torch.__version__,
        seconds=round(outcome.seconds, 3),
    )


def validation(job: Job, manifest: Manifest, world: World, *, bf16: bool | None = None) -> Validation:
    """Scores networks on val at the job's geometry, in its precision or the one that `bf16` says."""
    schedule, practice = job.plan.schedule, job.plan.practice
    return Validation(
        manifest,
        "val",
        size=job.size,
        mode=job.fit,
        batch_size=max(1, schedule.batch_size // world.size),
        precision=Precision(world.device.type, practice.precision == "bf16" if bf16 is None else bf16),
        world=world,
    )


def make_parts(job: Job, manifest: Manifest, world: World) -> Parts:
    """What a job's task is made of; one seed gives the students of all recipes the same start.

    Raises:
        UserError: batch statistics of several processes on CPUs, which torch has not.
    """
    practice = job.plan.practice
    sync_bn = practice.sync_bn and world.size > 1
    if sync_bn and world.device.type != "cuda":
        raise UserError(
            f"train.practice.sync_bn: true works on GPUs only, and {world.size} processes share the CPU; "
            "set it to false, or runtime.processes: 1"
        )
    torch.manual_seed(job.plan.seed)
    student = build_segmenter(job.model, manifest.num_classes)
    weights = manifest.class_weights(practice.class_weights)
    supervision = Supervision(
        None if weights is None else torch.from_numpy(weights).float(), practice.auxiliary_weight
    )
    device = world.device.type
    parts = Parts(
        world,
        manifest,
        student,
        supervision.to(world.device),
        Precision(device, practice.precision == "bf16"),
        Precision(device, practice.teacher_precision == "bf16"),
        torch.channels_last if practice.channels_last else torch.contiguous_format,
        sync_bn,
    )
    return parts._replace(student=parts.shared(student))


def _batches(
    job: Job, manifest: Manifest, world: World, runtime: RuntimeConfig
) -> Callable[[int, int], Iterator[Batch]]:
    def batches(start: int, stop: int) -> Iterator[Batch]:
        return training_batches(
            manifest,
            augment=job.plan.practice.augment,
            batch_size=job.plan.schedule.batch_size,
            seed=job.plan.seed,
            start=start,
            stop=stop,
            rank=world.rank,
            world_size=world.size,
            workers=runtime.workers,
            decoded=open_decoded(manifest, paths.DECODED, runtime.cache_gb * 1e9),
            unlabelled=job.unlabelled,
        )

    return batches


def run_stage(main: Callable[[list[str]], None]) -> None:
    """Run a training stage's `main`: alone as any stage, under torchrun with errors told once.

    Under torchrun a sentence goes into torchrun's error file, and the launcher shows the first one.
    """
    errors = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if errors is None:
        cli.run(main)
        return
    try:
        with disk_errors(Path.cwd()):
            main(sys.argv[1:])
    except UserError as error:
        told = {"message": str(error), "extraInfo": {"timestamp": str(int(time.time()))}}
        Path(errors).write_text(json.dumps({"message": told}), encoding="utf-8")
        # Peers may wait for this process in a collective: no clean-up that waits for them.
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except RuntimeError as error:
        if not _LOST_PEER.search(str(error)):
            raise
        print(f"stopped because another process did ({str(error).splitlines()[0]})", file=sys.stderr)
        raise SystemExit(LOST_PEER) from None
