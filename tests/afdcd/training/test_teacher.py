from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import tiny
import torch

from afdcd.models.segmenter import build_segmenter
from afdcd.training.distillation import DistillationTask
from afdcd.training.precision import Precision
from afdcd.training.task import Share
from afdcd.training.teacher import FrozenTeacher

WHOLE = Share(1.0, torch.ones(()))


def test_bfloat16_weights_are_what_autocast_makes_of_them() -> None:
    network = build_segmenter(tiny.model(), 3).eval()
    images = torch.randint(0, 256, (2, 3, *tiny.SIZE), dtype=torch.uint8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = network(images)
    found = FrozenTeacher(network, "logits", Precision("cpu", bf16=True)).start(images)()
    assert network.classifier.weight.dtype == torch.bfloat16
    assert network.normalise.mean.dtype == network.head.block[1].weight.dtype == torch.float32
    assert found.logits is not None and found.logits.equal(expected.logits)
    assert all(ours.equal(theirs) for ours, theirs in zip(found.features, expected.features, strict=True))


def test_the_learner_asks_for_the_teacher_after_the_student(workshop: Any) -> None:
    task: DistillationTask = workshop.distillation()
    order: list[str] = []
    start = task._frozen.start

    def late(images: Any) -> Any:
        awaited = start(images)
        return lambda: (order.append("awaited"), awaited())[1]

    task._frozen.start = late  # type: ignore[method-assign]
    task.student.register_forward_hook(lambda *_: order.append("student"))
    task._teacher.register_forward_hook(lambda *_: order.append("teacher"))
    task.losses(task.learner, next(workshop.batches(0, 1)), WHOLE)
    assert order == ["teacher", "student", "awaited"]


class FakeStream:
    def __init__(self, name: str, told: list[str]) -> None:
        self.name, self.told = name, told

    def wait_stream(self, other: FakeStream) -> None:
        self.told.append(f"{self.name} waits for {other.name}")


def test_on_a_gpu_the_two_streams_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    streams = {name: FakeStream(name, told) for name in ("teacher's", "student's")}
    current = [streams["student's"]]

    @contextmanager
    def entered(stream: FakeStream) -> Any:
        current.append(stream)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "Stream", lambda: streams["teacher's"])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current[-1])
    monkeypatch.setattr(torch.cuda, "stream", entered)
    network = torch.nn.Linear(2, 2)
    network.forward = lambda images, stop: told.append(f"forward in the {current[-1].name}")  # type: ignore
    teacher = FrozenTeacher(network, "logits", Precision("cuda", bf16=False))
    monkeypatch.setattr(Precision, "context", lambda self: torch.autocast("cpu", enabled=False))
    awaited = teacher.start(torch.zeros(1, 2))
    assert told == ["teacher's waits for student's", "forward in the teacher's"]
    awaited()
    assert told[2:] == ["student's waits for teacher's"]
