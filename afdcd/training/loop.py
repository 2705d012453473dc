"""The training loop: steps, readings, validation, checkpoints. It knows nothing of distillation."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from afdcd.config import PracticeConfig, ScheduleConfig
from afdcd.data.loader import Batch
from afdcd.errors import UserError
from afdcd.models.segmenter import Segmenter
from afdcd.training.average import WeightAverage
from afdcd.training.beside import beside, on_threads
from afdcd.training.checkpoint import (
    Checkpoint,
    Kept,
    KeptOptimiser,
    RunFolder,
    Tensors,
    prefixed,
    under,
)
from afdcd.training.compiling import compile_errors, compile_networks, uncompiled
from afdcd.training.curve import Row, row
from afdcd.training.distributed import World
from afdcd.training.native_modules import native_modules
from afdcd.training.optimisation import build_optimiser, clip_adapters, poly_lr, set_lr, step
from afdcd.training.progress import Progress
from afdcd.training.randomness import reseed
from afdcd.training.rehearsal import memory_errors, rehearse, share_of
from afdcd.training.stopping import StopRequest, StopVote
from afdcd.training.task import Share, Task, Terms
from afdcd.training.teacher import Awaited
from afdcd.training.watch import TermWatch, require_finite

logger = logging.getLogger(__name__)

READINGS = 100
"""Rows of a curve, about."""


@dataclass(frozen=True)
class Plan:
    """How one network is trained; everything in it changes the result."""

    schedule: ScheduleConfig
    practice: PracticeConfig
    seed: int


class Best(NamedTuple):
    """The student's weights with the highest mIoU on val so far."""

    iteration: int
    val_miou: float
    weights: Tensors


class Outcome(NamedTuple):
    """What a finished training leaves; the student holds the best weights."""

    best_iteration: int
    val_miou: float
    """0..1."""
    seconds: float
    rows: list[Row]


class Training:
    """One network's training, from its last checkpoint (or the start) to its end."""

    def __init__(
        self,
        task: Task,
        plan: Plan,
        *,
        batches: Callable[[int, int], Iterator[Batch]],
        validate: Callable[[Segmenter], float],
        folder: RunFolder,
        world: World,
        display: Progress,
    ) -> None:
        """Lay out memory, rehearse one step, and restore the last checkpoint.

        Args:
            task: what is trained; its networks are on the world's device.
            plan: the settings.
            batches: (start, stop) to this process's batches of these iterations.
            validate: the student's mIoU on val, 0..1; called by all processes together.
            folder: where the checkpoint lies.
            world: the processes.
            display: where progress is shown.

        Raises:
            UserError: settings that cannot work, lack of memory, or an unreadable checkpoint.
        """
        self.task, self.plan, self.world = task, plan, world
        self._batches, self._validate, self._folder, self._display = batches, validate, folder, display
        schedule, practice = plan.schedule, plan.practice
        self._images, self._part = share_of(schedule.batch_size, world.size, practice.micro_batch)
        if practice.channels_last:
            task.learner.to(memory_format=torch.channels_last)
        if practice.compile:
            compile_networks(task.networks())
        with compile_errors():
            rehearse(task, self._part, practice.augment.crop, world.device)
        self._average = None if practice.ema is None else WeightAverage(task.student, practice.ema)
        groups = task.groups()
        self._adapters = [p for group in groups if group.clip for p in group.parameters if p.requires_grad]
        self._optimiser = build_optimiser(schedule.optimiser, groups)
        self._kept: dict[str, Kept] = {
            "learner": task.learner,
            "optimiser": KeptOptimiser(self._optimiser, task.learner),
        }
        if self._average is not None:
            self._kept["average"] = self._average.network
        self._watch = TermWatch(world)
        self._request, self._vote = StopRequest(), StopVote(world.device)
        self._rows: list[Row] = []
        self._best: Best | None = None
        self._seconds = 0.0
        self._saved: int | None = None
        self._done = 0
        self._restore()
        self._threads = torch.get_num_threads()
        self._learner = world.wrap(task.learner)
        self._timed, self._since = self._done, time.monotonic()

    def run(self, request: StopRequest) -> Outcome:
        """Train to the end.

        Raises:
            UserError: a stop was asked for (the state is saved), a loss is no number any more (the last
                good checkpoint is kept), the disk is full, or memory does not suffice.
        """
        last = self.plan.schedule.iterations
        self._request = request
        self.task.learner.train()
        with self._native(), closing(self._begun(self._batches(self._done, last))) as begun:
            for batch, teacher in begun:
                self._step(self._done, batch, teacher)
                self._done += 1
                stop = request.asked if self.world.size == 1 else self._vote.passed()
                if stop or self._reading_due():
                    self._read(stop)
        assert self._best is not None, "the last iteration is always validated"
        self.task.student.load_state_dict(self._best.weights)
        self._require_equal_weights()
        return Outcome(self._best.iteration, self._best.val_miou, self._seconds, self._rows)

    def _begun(self, batches: Iterator[Batch]) -> Generator[tuple[Batch, Awaited | None], None, None]:
        """Batches on the device, each with its teacher's pass where that is begun beside the step before.

        It is not in a training by micro-batches: memory is short there, and the pass is over a whole batch.
        Nor with more than two threads, of which GNU's OpenMP ends some at each kernel that takes fewer than
        the one before, and starts them anew.
        """
        start, moved = self.task.teacher_start(), map(self._moved, batches)
        if start is None or self._part < self._images or self._threads != 2:
            return ((batch, None) for batch in moved)

        def begin(batch: Batch) -> tuple[Batch, Awaited]:
            with self._memory_errors():
                return batch, start(batch.images)

        return beside(moved, begin, self._threads)

    def _memory_errors(self) -> AbstractContextManager[None]:
        return memory_errors(self._part, self.plan.practice.augment.crop)

    def _step(self, iteration: int, batch: Batch, teacher: Awaited | None = None) -> None:
        """One update; parts of the batch and processes add up to the loss of the global batch."""
        optimiser = self.plan.schedule.optimiser
        set_lr(self._optimiser, poly_lr(optimiser, iteration, self.plan.schedule.iterations))
        reseed(self.plan.seed, iteration, self.world.rank)
        self._optimiser.zero_grad()
        own = self.task.mass(batch.labels)
        mass = self._shared(own) / self.world.size
        mass = mass.clamp_min(torch.finfo(mass.dtype).tiny)
        terms: Terms = {}
        with self._memory_errors():
            for first in range(0, self._images, self._part):
                part = Batch(*(tensor[first : first + self._part] for tensor in batch))
                its_own = own if self._part == self._images else self.task.mass(part.labels)
                share = Share(self._part / self._images, its_own / mass)
                with self._quiet(self._images - first > self._part):
                    found = self.task.losses(self._learner, part, share, teacher)
                    found["loss"].backward()  # type: ignore[no-untyped-call]
                terms = {name: terms.get(name, 0.0) + value.detach() for name, value in found.items()}
        clip_adapters(self._adapters, optimiser.clip_adapters)
        step(self._optimiser)
        if self._average is not None:
            self._average.update(iteration)
        self._watch.add(iteration, terms)

    def _native(self) -> AbstractContextManager[None]:
        """Modules as they are quickest: some in C on a CPU, unless they are part of a compiled network."""
        plain = self.world.device.type != "cpu" or self.plan.practice.compile
        return nullcontext() if plain else native_modules(self.task.learner)

    def _shared(self, mass: Tensor) -> Tensor:
        """The label mass of all processes' shares from this one's; their wishes to stop ride along."""
        sums = self.world.sum(torch.stack([mass, torch.full_like(mass, float(self._request.asked))]))
        self._vote.count(sums[1])
        return sums[0]

    def _moved(self, batch: Batch) -> Batch:
        """The batch on the device."""
        layout = torch.channels_last if self.plan.practice.channels_last else torch.contiguous_format
        if self.world.device.type == "cuda":
            batch = Batch(*(tensor.pin_memory() for tensor in batch))
        images = batch.images.to(self.world.device, non_blocking=True, memory_format=layout)
        rest = (tensor.to(self.world.device, non_blocking=True) for tensor in (batch.labels, batch.keys))
        return Batch(images, *rest)

    def _quiet(self, more: bool) -> AbstractContextManager[None]:
        """Gradients of several processes are averaged in the last part's backward pass only."""
        if more and isinstance(self._learner, DistributedDataParallel):
            return self._learner.no_sync()
        return nullcontext()

    def _due(self, every: int) -> bool:
        return self._done % every == 0 or self._done == self.plan.schedule.iterations

    def _reading_due(self) -> bool:
        schedule, practice = self.plan.schedule, self.plan.practice
        often = max(1, min(100, schedule.iterations // READINGS))
        return any(map(self._due, (often, schedule.validate_every, practice.checkpoint_every)))

    def _read(self, stop: bool) -> None:
        """Look at the losses; validate, save and stop where it is time."""
        try:
            figures = self._watch.read()
            require_finite(self._state().values(), self._done)
        except UserError as error:
            kept = (
                f"the checkpoint of iteration {self._saved} is kept in {self._folder.path}"
                if self._saved
                else "no checkpoint had been written yet"
            )
            raise UserError(f"{error} ({kept})") from None
        took = time.monotonic() - self._since
        pace = (self._done - self._timed) * self.plan.schedule.batch_size / max(took, 1e-9)
        self._seconds += took
        if self._due(self.plan.schedule.validate_every):
            figures["val_miou"] = self._validated()
        rate = poly_lr(self.plan.schedule.optimiser, self._done - 1, self.plan.schedule.iterations)
        self._rows.append(row(self._done, self._seconds, rate, pace, figures))
        self._display.show(
            self._done, {k: v for k, v in figures.items() if not k.startswith("weighted/")}, pace
        )
        if stop or self._due(self.plan.practice.checkpoint_every):
            self._save()
        if stop and self._done < self.plan.schedule.iterations:
            raise UserError(
                f"stopped as asked after iteration {self._done} of {self.plan.schedule.iterations}; "
                "the state is saved, run the same command again to go on"
            )
        self._timed, self._since = self._done, time.monotonic()

    def _validated(self) -> float:
        """Score on val; the best weights so far are kept in memory."""
        began = time.monotonic()
        network = self._spread()
        with on_threads(self._threads), uncompiled() if self.plan.practice.compile else nullcontext():
            miou = self._validate(network)
        if self._best is None or miou > self._best.val_miou:
            state = network.state_dict()
            weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
            self._best = Best(self._done, miou, weights)
        self._seconds += time.monotonic() - began
        return miou

    def _spread(self) -> Segmenter:
        """Give all processes the same buffers; the network that is validated: the mean, if there is one."""
        self.world.spread_buffers(self.task.learner)
        if self._average is None:
            return self.task.student
        self.world.spread_buffers(self._average.network)
        return self._average.network

    def _state(self) -> Tensors:
        mean = {} if self._average is None else prefixed("average", self._average.network.state_dict())
        return self.task.learner.state_dict() | mean

    def _save(self) -> None:
        """Write the checkpoint, once on every disk."""
        self._spread()
        self._saved = self._done
        if not self.world.writes:
            return
        tensors: Tensors = {}
        for name, kept in self._kept.items():
            tensors |= prefixed(name, kept.state_dict())
        best = None
        if self._best is not None:
            tensors |= prefixed("best", self._best.weights)
            best = {"iteration": self._best.iteration, "val_miou": self._best.val_miou}
        facts = {
            "iteration": self._done,
            "seconds": self._seconds,
            "rows": self._rows,
            "best": best,
            "threads": self._threads,
            "processes": self.world.size,
        }
        self._folder.save(Checkpoint(tensors, facts))

    def _restore(self) -> None:
        """Go on from the last checkpoint, if there is one.

        Raises:
            UserError: it cannot be read.
        """
        checkpoint = self._folder.load_newest(self.world)
        if checkpoint is None:
            return
        tensors, facts = checkpoint
        for name, kept in self._kept.items():
            kept.load_state_dict(under(name, tensors))
        if (best := facts["best"]) is not None:
            self._best = Best(best["iteration"], best["val_miou"], under("best", tensors))
        self._done = self._saved = facts["iteration"]
        self._seconds, self._rows = facts["seconds"], facts["rows"]
        if self.world.device.type == "cpu" and facts["threads"] != torch.get_num_threads():
            torch.set_num_threads(facts["threads"])
            logger.info("going on with %d thread(s) as before: sums then round alike", facts["threads"])
        logger.info("going on from iteration %d (%s)", self._done, self._folder.file)

    def _require_equal_weights(self) -> None:
        """Refuse to end with processes that hold different weights: that would be a bug of ours.

        Raises:
            RuntimeError: they differ.
        """
        digest = hashlib.sha256()
        parameters: Iterator[tuple[str, nn.Parameter]] = self.task.learner.named_parameters()
        for _, parameter in parameters:
            digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
        number = int.from_bytes(digest.digest()[:7], "big")
        ends: Tensor = torch.tensor([number, -number], device=self.world.device)
        low, high = self.world.minimum(ends).tolist()
        if low != -high:
            raise RuntimeError("the processes ended with different weights")
