from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from afdcd.models.output import SegOutput
from afdcd.models.segmenter import build_segmenter
from afdcd.training import teacher as module
from afdcd.training.distillation import DistillationTask
from afdcd.training.precision import Precision
from afdcd.training.task import Share
from afdcd.training.teacher import FrozenTeacher

WHOLE = Share(1.0, torch.ones(()))


def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, *tiny.SIZE), dtype=torch.uint8)


def test_bfloat16_weights_are_what_autocast_makes_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fold_batch_norms", lambda *_: 0)
    network, given = build_segmenter(tiny.model(), 3).eval(), images()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = network(given)
    found = FrozenTeacher(network, "logits", Precision("cpu", bf16=True)).start(given)()
    assert network.classifier.weight.dtype == torch.bfloat16
    assert network.normalise.mean.dtype == network.head.block[1].weight.dtype == torch.float32
    assert found.logits is not None and found.logits.equal(expected.logits)
    assert all(ours.equal(theirs) for ours, theirs in zip(found.features, expected.features, strict=True))


@pytest.mark.parametrize("bf16", [False, True])
def test_batch_norms_are_folded_before_the_first_pass(bf16: bool) -> None:
    network, given = build_segmenter(tiny.model(), 3).eval(), images()
    for norm in [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]:
        nn.init.uniform_(norm.running_mean, -1, 1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    with torch.no_grad():
        expected = network(given)
    state = torch.get_rng_state()
    teacher = FrozenTeacher(network, "logits", Precision("cpu", bf16))
    found = [teacher.start(given)() for _ in range(2)]
    assert torch.get_rng_state().equal(state)
    # What a stop leaves out, as the auxiliary head, is as it was.
    left = [name for name, part in network.named_modules() if isinstance(part, nn.BatchNorm2d)]
    assert left and all(name.startswith("auxiliary") for name in left)
    near = 3e-2 if bf16 else 1e-5
    for output in found:
        for ours, theirs in zip(
            (output.logits, *output.features), (expected.logits, *expected.features), strict=True
        ):
            assert (ours.float() - theirs).norm() < near * theirs.norm()


@pytest.mark.parametrize("bf16", [False, True])
def test_convolutions_are_quickened_in_float32_alone(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    network, given, asked = build_segmenter(tiny.model(), 3).eval(), images(), []
    monkeypatch.setattr(module, "freeze_convolutions", asked.append)
    FrozenTeacher(network, "logits", Precision("cpu", bf16)).start(given)()
    assert asked == ([] if bf16 else [network])


def test_a_compiled_teacher_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_segmenter(tiny.model(), 3).eval()
    monkeypatch.setattr(network, "_compiled_call_impl", lambda given, stop: network.forward(given, stop=stop))
    FrozenTeacher(network, "logits", Precision("cpu", bf16=False)).start(images())
    assert sum(isinstance(part, nn.BatchNorm2d) for part in network.modules()) > 5


def test_a_short_pass_runs_beside_where_kernels_do_the_work(
    monkeypatch: pytest.MonkeyPatch, workshop: Any
) -> None:
    monkeypatch.setattr(module, "prefers_product", lambda: True)
    task: DistillationTask = workshop.distillation()
    assert task.teacher_start() is None, "how long a pass takes is not known yet"
    task.losses(task.learner, next(workshop.batches(0, 1)), WHOLE)
    assert task.teacher_start() == task._frozen.start
    task.precision = Precision("cpu", bf16=True)
    assert task.teacher_start() is None
    task.precision = Precision("cpu", bf16=False)
    monkeypatch.setattr(module, "SHORT", task._frozen._work - 1)
    assert task.teacher_start() is None
    monkeypatch.undo()
    monkeypatch.setattr(module, "prefers_product", lambda: False)
    assert task.teacher_start() is None


@pytest.mark.parametrize("compiled", [False, True])
def test_no_other_pass_runs_beside(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "prefers_product", lambda: True)
    network = build_segmenter(tiny.model(), 3).eval()
    if compiled:
        monkeypatch.setattr(network, "_compiled_call_impl", lambda *given, **named: network.forward(*given))
    teacher = FrozenTeacher(network, "logits", Precision("cpu", bf16=not compiled))
    teacher.start(images())
    assert not teacher.gains_beside()


def test_the_work_of_a_pass_is_that_of_its_convolutions() -> None:
    class Little(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.unused = nn.Conv2d(3, 4, 3, padding=1, stride=2), nn.Conv2d(3, 4, 3)
            self.second = nn.Conv2d(4, 8, 1, groups=2)

        def forward(self, image: torch.Tensor, stop: str) -> SegOutput:
            return SegOutput(self.second(self.first(image.float())), (), None, None)

    teacher = FrozenTeacher(Little(), "logits", Precision("cpu", bf16=False))
    for _ in range(2):
        teacher.start(torch.zeros(2, 3, 8, 16, dtype=torch.uint8))
    assert teacher._work == 2 * (4 * 8) * (4 * 27 + 8 * 2)


def test_a_teacher_that_was_begun_is_not_begun_again(workshop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task: DistillationTask = workshop.distillation()
    batch = next(workshop.batches(0, 1))
    torch.manual_seed(0)
    expected = task.losses(task.learner, batch, WHOLE)
    begun = task._frozen.start(batch.images)
    monkeypatch.setattr(task._frozen, "start", None)
    torch.manual_seed(0)
    found = task.losses(task.learner, batch, WHOLE, begun)
    assert all(found[name].equal(value) for name, value in expected.items())


def test_the_learner_asks_for_the_teacher_after_the_student(workshop: Any) -> None:
    task: DistillationTask = workshop.distillation()
    task.losses(task.learner, next(workshop.batches(0, 1)), WHOLE)
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
