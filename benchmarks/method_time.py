"""What each distillation method adds to a training step: seconds and memory, against the student alone.

python benchmarks/method_time.py            # both pairs, all methods; four to five minutes on one free core
python benchmarks/method_time.py demo       # one pair
python benchmarks/method_time.py demo kd ka # some methods

A step is the training loop's: the teacher's forward pass, as far as the method asks for it, the student's,
the losses, backward, clip and optimiser; one thread, random weights and images, each method by itself with
all its terms. Every method has a process of its own, in which its steps and those of the control (the student
alone) take turns; the table holds medians, and ratios of medians of one process. Memory is the peak of the
resident set (ru_maxrss) after two steps, before the control is built, less what the process held before its
networks. Full queues count, first phases do not.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import yaml

from afdcd.config import IGNORE_INDEX, ModelConfig, OptimiserConfig
from afdcd.data.loader import Batch
from afdcd.losses import METHODS
from afdcd.losses.method import Context
from afdcd.losses.objective import build_objective
from afdcd.models.segmenter import Segmenter
from afdcd.training.distillation import DistillationTask
from afdcd.training.native_modules import native_modules
from afdcd.training.optimisation import build_optimiser, clip_adapters
from afdcd.training.precision import Precision
from afdcd.training.task import Share, SupervisedTask, Supervision, Task
from deploy.hardware import describe
from pipeline.configure import compose

CONTROL = "student alone"


class Pair(NamedTuple):
    """A teacher, a student and the batch they learn from; `turns` of both steps are timed."""

    presets: list[str]
    classes: int
    crop: tuple[int, int]
    batch: int
    turns: int


PAIRS = {
    # The options of the recipes for Cityscapes, as in method_cost.py.
    "r101_r18": Pair(
        ["dataset=camvid", "pair=r101_r18", "schedule=paper", "preset.pool=4", "preset.relation_pool=1"],
        classes=19,
        crop=(128, 256),
        batch=2,
        turns=4,
    ),
    "demo": Pair([], classes=9, crop=(96, 192), batch=8, turns=12),
}


class Measured(NamedTuple):
    """Medians of one process: seconds of the method's step, CPU seconds of the control's, peak MiB."""

    cpu: float
    wall: float
    control_cpu: float
    peak: float


def images(pair: Pair) -> Batch:
    """Random images whose labels are blocks, so that maps of any stride hold several classes."""
    height, width = pair.crop
    pixels = torch.randint(0, 256, (pair.batch, 3, height, width), dtype=torch.uint8)
    blocks = torch.randint(0, pair.classes, (pair.batch, height // 32, width // 32), dtype=torch.uint8)
    labels = blocks.repeat_interleave(32, 1).repeat_interleave(32, 2)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    return Batch(pixels, labels, torch.arange(pair.batch))


def control_task(settings: dict[str, Any], pair: Pair) -> SupervisedTask:
    """The student that learns from labels alone."""
    (student,) = settings["students"].values()
    practice = settings["train"]["practice"]
    weights = None if practice["class_weights"] == "none" else torch.ones(pair.classes)
    network = Segmenter(ModelConfig(**student), pair.classes)
    supervision = Supervision(weights, practice["auxiliary_weight"])
    return SupervisedTask(network, supervision, Precision("cpu", False))


def method_task(settings: dict[str, Any], pair: Pair, name: str) -> DistillationTask:
    """The same student that also learns by one method of the recipe of that name."""
    alone = control_task(settings, pair)
    teacher = Segmenter(ModelConfig(**settings["teacher"]["model"]), pair.classes)
    weights = alone.supervision.class_weights
    context = Context(alone.student.channels, teacher.channels, IGNORE_INDEX, weights)
    objective = build_objective({name: settings["distill"]["recipes"][name][name]}, context)
    for buffer in objective.buffers():
        if buffer.is_floating_point():
            buffer.add_(0)  # a page of zeros that nobody has written takes no memory; a full queue does
    teacher.to(memory_format=torch.channels_last)
    parts = alone.student, teacher, objective, alone.supervision, alone.precision, alone.precision
    return DistillationTask(*parts)


def stepper(task: Task, config: OptimiserConfig, batch: Batch) -> Callable[[], None]:
    """One update of a task, as the training loop does it."""
    task.learner.to(memory_format=torch.channels_last).train()
    groups = task.groups()
    adapters = [p for group in groups if group.clip for p in group.parameters if p.requires_grad]
    optimiser, share = build_optimiser(config, groups), Share(1.0, torch.ones(()))

    def step() -> None:
        optimiser.zero_grad()
        with native_modules(task.student):
            loss = task.losses(task.learner, batch, share)["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        clip_adapters(adapters, config.clip_adapters)
        optimiser.step()

    return step


def peak() -> float:
    """MiB that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(step: Callable[[], None]) -> tuple[float, float]:
    """CPU and wall seconds of one step."""
    cpu, wall = time.process_time(), time.perf_counter()
    step()
    return time.process_time() - cpu, time.perf_counter() - wall


def measure(given: tuple[dict[str, Any], Pair, str]) -> Measured:
    """One method, or the control, in a process that has done nothing else."""
    settings, pair, name = given
    before = peak()
    torch.manual_seed(0)
    batch, config = images(pair), OptimiserConfig(**settings["train"]["schedule"]["optimiser"])
    task: Task = control_task(settings, pair) if name == CONTROL else method_task(settings, pair, name)
    step = stepper(task, config, batch)
    step()
    ours = [timed(step)]
    held = peak() - before
    control = step if name == CONTROL else stepper(control_task(settings, pair), config, batch)
    control()
    theirs = []
    for _ in range(pair.turns):
        theirs.append(timed(control)[0])
        ours.append(timed(step))
    cpu, wall = zip(*ours, strict=True)
    median = statistics.median
    return Measured(median(cpu), median(wall), median(theirs), held)


def table(name: str, methods: list[str]) -> None:
    """Measure a pair and print its rows, each as it is ready."""
    pair = PAIRS[name]
    settings = yaml.safe_load(compose([*pair.presets, f"recipe=[{','.join(METHODS)}]"]).body)
    print(f"\n{name}: {pair.crop[0]}x{pair.crop[1]}, {pair.batch} images, {pair.classes} classes")
    print(f"{'':<15}{'CPU s':>8}{'wall s':>8}{'CPU ratio':>11}{'MiB':>8}{'MiB more':>9}")
    jobs = [(settings, pair, method) for method in (CONTROL, *methods)]
    first: Measured | None = None
    # Forked from a process that has imported all and computed nothing, so that no job pays or hides that.
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for (*_, method), found in zip(jobs, pool.imap(measure, jobs), strict=True):
            first = first or found
            times = f"{found.cpu:>8.3f}{found.wall:>8.3f}{found.cpu / found.control_cpu:>10.2f}x"
            print(f"{method:<15}{times}{found.peak:>8.0f}{found.peak - first.peak:>9.0f}", flush=True)


def machine() -> str:
    """The hardware in words, with what else it does now."""
    cpu = describe()["cpu"]
    loads = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    cores = f"one thread of {cpu['model']}, {cpu['logical_cores']} logical cores"
    return f"{cores}; torch {torch.__version__}; load {loads}"


def main(given: list[str]) -> None:
    torch.set_num_threads(1)
    print(machine())
    for name in [name for name in given if name in PAIRS] or PAIRS:
        table(name, [method for method in given if method not in PAIRS] or list(METHODS))
    print(machine())


if __name__ == "__main__":
    main(sys.argv[1:])
