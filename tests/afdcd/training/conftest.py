from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from afdcd.config import PracticeConfig, ScheduleConfig
from afdcd.data.loader import Batch, training_batches
from afdcd.data.manifest import Manifest
from afdcd.losses.method import Context
from afdcd.losses.objective import build_objective
from afdcd.models.segmenter import Segmenter, build_segmenter
from afdcd.training.checkpoint import RunFolder
from afdcd.training.distillation import DistillationTask
from afdcd.training.distributed import World
from afdcd.training.loop import Plan, Training
from afdcd.training.precision import Precision
from afdcd.training.progress import Silent
from afdcd.training.stopping import StopRequest
from afdcd.training.task import SupervisedTask, Supervision, Task

ALONE = World(0, 1, torch.device("cpu"))
FP32 = Precision("cpu", bf16=False)


@pytest.fixture
def seeded() -> Iterator[None]:
    """Random numbers from a seed; a test may change the number of threads."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Threads of a busy machine wait for each other at every small operation."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return tiny.write_prepared(tmp_path_factory.mktemp("data") / "prepared")


@dataclass
class Workshop:
    """Builds tasks and trainings that differ from the tiny default in what a test names."""

    manifest: Manifest
    folder: Path
    workers: int = 0
    validate: Callable[[Segmenter], float] = lambda network: 0.5
    schedule: ScheduleConfig = field(default_factory=tiny.schedule)
    practice: PracticeConfig = field(default_factory=tiny.practice)
    seed: int = 3

    def supervision(self) -> Supervision:
        weights = self.manifest.class_weights(self.practice.class_weights)
        return Supervision(None if weights is None else torch.from_numpy(weights).float(), 0.4)

    def supervised(self, **changes: Any) -> SupervisedTask:
        torch.manual_seed(self.seed)
        student = build_segmenter(tiny.model(**changes), len(tiny.CLASSES))
        return SupervisedTask(student, self.supervision(), FP32)

    def distillation(self, recipe: str = "afdcd", **changes: Any) -> DistillationTask:
        torch.manual_seed(self.seed)
        student = build_segmenter(tiny.model(**changes), len(tiny.CLASSES))
        supervision = self.supervision()
        teacher = build_segmenter(tiny.model(), len(tiny.CLASSES))
        context = Context(student.channels, teacher.channels, 255, supervision.class_weights)
        objective = build_objective(tiny.RECIPES[recipe], context)
        return DistillationTask(student, teacher, objective, supervision, FP32, FP32)

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        return training_batches(
            self.manifest,
            augment=self.practice.augment,
            batch_size=self.schedule.batch_size,
            seed=self.seed,
            start=start,
            stop=stop,
            rank=0,
            world_size=1,
            workers=self.workers,
        )

    def training(self, task: Task) -> Training:
        return Training(
            task,
            Plan(self.schedule, self.practice, self.seed),
            batches=self.batches,
            validate=self.validate,
            folder=self.run_folder,
            world=ALONE,
            display=Silent(),
        )

    @property
    def run_folder(self) -> RunFolder:
        return RunFolder(self.folder, "tiny", "0")


@pytest.fixture
def workshop(manifest: Manifest, tmp_path: Path) -> Workshop:
    return Workshop(manifest, tmp_path)


@pytest.fixture
def request_stop() -> StopRequest:
    return StopRequest()
