from __future__ import annotations

import errno
import os
from threading import current_thread, main_thread
from typing import Any

import pytest
import tiny
import torch
from loops import same, stop_after_five, weights
from torch import Tensor

from afdcd.errors import UserError
from afdcd.models.segmenter import Segmenter
from afdcd.native.kernels import has_kernels
from afdcd.training.loop import Training
from afdcd.training.stopping import StopRequest
from afdcd.training.task import Task, Terms
from afdcd.training.teacher import FrozenTeacher

needs_kernels = pytest.mark.skipif(not has_kernels(), reason="no C compiler is installed")


def poison(training: Training, name: str, iteration: int) -> None:
    """Make one term NaN in one iteration (counted from 0)."""
    losses = training.task.losses
    calls = iter(range(10**6))

    def broken(*arguments: Any) -> Terms:
        terms = losses(*arguments)
        if next(calls) == iteration:
            terms[name] = terms[name] * float("nan")
        return terms

    training.task.losses = broken  # type: ignore[method-assign]


def test_the_loss_falls(workshop: Any, request_stop: StopRequest) -> None:
    workshop.schedule = tiny.schedule(iterations=40, validate_every=40)
    rows = workshop.training(workshop.distillation()).run(request_stop).rows
    assert len(rows) == 40
    first, last = (sum(row["loss"] for row in part) for part in (rows[:5], rows[-5:]))
    assert last < 0.85 * first


def test_a_row_holds_every_term_raw_and_weighted(workshop: Any, request_stop: StopRequest) -> None:
    last = workshop.training(workshop.distillation()).run(request_stop).rows[-1]
    for term, weight in {"ce": 1, "auxiliary": 0.4, "masked_feature": 4e-5, "omni_contrast": 0.002}.items():
        assert last[f"weighted/{term}"] == pytest.approx(weight * last[term])
    total = sum(value for name, value in last.items() if name.startswith("weighted/"))
    assert last["loss"] == pytest.approx(total)
    assert last["val_miou"] == 0.5


def test_same_seed_same_weights_and_another_seed_others(workshop: Any) -> None:
    found = []
    for seed in (3, 3, 4):
        workshop.seed = seed
        workshop.folder = workshop.folder / "next"
        task = workshop.distillation()
        workshop.training(task).run(StopRequest())
        found.append(weights(task))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize("workers", [0, 1])
def test_resumes_bit_for_bit(workshop: Any, optimiser: str, workers: int) -> None:
    """Stopped between checkpoints, resumed with other workers: weights and curve of an unbroken run."""
    workshop.schedule = tiny.schedule({"name": optimiser})
    scores = iter([0.3, 0.2, 0.2])
    workshop.validate = lambda network: next(scores)
    unbroken = workshop.distillation()
    expected = workshop.training(unbroken).run(StopRequest())

    scores = iter([0.3])
    stop_after_five(workshop)

    workshop.workers = workers
    scores = iter([0.2])
    resumed = workshop.distillation()
    outcome = workshop.training(resumed).run(StopRequest())
    assert same(weights(resumed), weights(unbroken))
    assert (outcome.best_iteration, outcome.val_miou) == (4, 0.3) == (expected.best_iteration, 0.3)
    changing = ("seconds", "images_per_second")
    for ours, theirs in zip(outcome.rows, expected.rows, strict=True):
        assert list(ours) == list(theirs)
        assert all(ours[name] == theirs[name] for name in ours if name not in changing)


@pytest.fixture
def teacher_beside(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """As on a processor where the teacher's pass runs beside a step; how many threads it was given."""
    threads: list[int] = []
    start = FrozenTeacher.start

    def counted(teacher: FrozenTeacher, images: Tensor) -> Any:
        if current_thread() is not main_thread():
            threads.append(torch.get_num_threads())
        return start(teacher, images)

    monkeypatch.setattr(FrozenTeacher, "gains_beside", lambda teacher: True)
    monkeypatch.setattr(FrozenTeacher, "start", counted)
    return threads


@needs_kernels
@pytest.mark.usefixtures("seeded")
def test_a_teacher_beside_the_step_gives_the_weights_of_half_the_threads(
    workshop: Any, teacher_beside: list[int]
) -> None:
    found, scored_with, stepped_with = [], [], []
    workshop.validate = lambda network: float(scored_with.append(torch.get_num_threads()) or 0.5)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        workshop.folder = workshop.folder / "next"
        task = workshop.distillation()
        task.student.register_forward_hook(lambda *_: stepped_with.append(torch.get_num_threads()))
        training = workshop.training(task)
        stepped_with.clear()
        training.run(StopRequest())
        found.append(weights(task))
        assert torch.get_num_threads() == threads and stepped_with == [1] * 8
    assert same(*found)
    assert teacher_beside == [1] * 7, "all but the first of eight iterations, by the second training alone"
    assert scored_with == [1, 1, 2, 2]


@needs_kernels
@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_teacher_beside_the_step_is_resumed_bit_for_bit(
    workshop: Any, teacher_beside: list[int], workers: int
) -> None:
    torch.set_num_threads(2)
    unbroken = workshop.distillation()
    workshop.training(unbroken).run(StopRequest())
    stop_after_five(workshop)
    checkpoint = workshop.run_folder.load()
    assert checkpoint is not None and checkpoint.facts["threads"] == 2
    workshop.workers = workers
    resumed = workshop.distillation()
    workshop.training(resumed).run(StopRequest())
    assert same(weights(resumed), weights(unbroken)) and teacher_beside


@needs_kernels
@pytest.mark.usefixtures("seeded")
def test_a_teacher_beside_the_step_that_gets_no_memory_is_told(
    workshop: Any, request_stop: StopRequest, teacher_beside: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(teacher: FrozenTeacher, images: Tensor) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    torch.set_num_threads(2)
    training = workshop.training(workshop.distillation())
    monkeypatch.setattr(FrozenTeacher, "start", refused)
    with pytest.raises(UserError, match=r"out of memory with 4 image.* set train.practice.micro_batch: 2"):
        training.run(request_stop)
    assert torch.get_num_threads() == 2


@needs_kernels
@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize(("threads", "micro_batch"), [(2, 2), (4, None)])
def test_micro_batches_and_more_threads_keep_the_teacher_before_the_step(
    threads: int, micro_batch: int | None, workshop: Any, request_stop: StopRequest, teacher_beside: list[int]
) -> None:
    torch.set_num_threads(threads)
    workshop.practice = tiny.practice(micro_batch=micro_batch)
    workshop.training(workshop.distillation()).run(request_stop)
    assert teacher_beside == []


def test_a_finished_run_trains_nothing_more(workshop: Any) -> None:
    task = workshop.supervised()
    expected = workshop.training(task).run(StopRequest())
    again = workshop.supervised()
    training = workshop.training(again)
    training._step = None  # type: ignore[assignment,method-assign]
    assert training.run(StopRequest()) == expected
    assert same(weights(again), weights(task))


def test_the_best_on_val_is_kept(workshop: Any, request_stop: StopRequest) -> None:
    workshop.schedule = tiny.schedule(validate_every=2)
    scores, seen = iter([0.1, 0.7, 0.3, 0.7]), []

    def validate(network: Segmenter) -> float:
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return next(scores)

    workshop.validate = validate
    task = workshop.supervised()
    outcome = workshop.training(task).run(request_stop)
    assert (outcome.best_iteration, outcome.val_miou) == (4, 0.7)
    assert same(dict(task.student.state_dict()), seen[1])
    assert not same(seen[1], seen[3])


def test_a_nan_names_term_and_iteration_and_keeps_the_last_checkpoint(
    workshop: Any, request_stop: StopRequest
) -> None:
    training = workshop.training(workshop.distillation())
    poison(training, "omni_contrast", 4)
    with pytest.raises(
        UserError, match=r"'omni_contrast' became NaN .* at iteration 5;.* of iteration 3 is kept"
    ):
        training.run(request_stop)
    checkpoint = workshop.run_folder.load()
    assert checkpoint.facts["iteration"] == 3
    assert all(tensor.isfinite().all() for tensor in checkpoint.tensors.values())


def test_a_nan_before_any_checkpoint_says_so(workshop: Any, request_stop: StopRequest) -> None:
    training = workshop.training(workshop.supervised())
    poison(training, "ce", 0)
    with pytest.raises(UserError, match="'ce' became NaN .* at iteration 1;.*no checkpoint had been written"):
        training.run(request_stop)
    assert workshop.run_folder.load() is None


def test_bad_weights_after_a_finite_loss_are_never_saved(workshop: Any, request_stop: StopRequest) -> None:
    training = workshop.training(workshop.supervised())
    step = training._step

    def overflow(iteration: int, *rest: Any) -> None:
        step(iteration, *rest)
        if iteration == 2:
            training.task.student.classifier.weight.data[0, 0] = float("inf")

    training._step = overflow  # type: ignore[method-assign]
    with pytest.raises(UserError, match="weights became NaN or infinite by iteration 3"):
        training.run(request_stop)
    assert workshop.run_folder.load() is None


def test_a_full_disk_keeps_the_previous_checkpoint(
    workshop: Any, request_stop: StopRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = workshop.training(workshop.supervised())
    save = workshop.run_folder.save

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def second_fails(checkpoint: Any) -> None:
        if checkpoint.facts["iteration"] > 3:
            monkeypatch.setattr(os, "fsync", full)
        save(checkpoint)

    training._folder.save = second_fails  # type: ignore[method-assign]
    with pytest.raises(UserError, match="disk is full"):
        training.run(request_stop)
    checkpoint = workshop.run_folder.load()
    assert checkpoint is not None and checkpoint.facts["iteration"] == 3
    assert [path.name for path in workshop.run_folder.path.iterdir()] == ["last.safetensors"]


def gradients(workshop: Any, task: Task, micro_batch: int | None) -> dict[str, Tensor]:
    """The gradients of one step over the same batch, in eval mode: batch norm must not see the parts."""
    workshop.practice = tiny.practice(micro_batch=micro_batch)
    training = workshop.training(task)
    task.learner.eval()
    training._optimiser.step = lambda: None  # type: ignore[assignment,method-assign]
    training._step(0, next(workshop.batches(0, 1)))
    return {name: p.grad.clone() for name, p in task.learner.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_parts_of_a_batch_add_up_to_the_whole(workshop: Any, micro_batch: int) -> None:
    """Weighted cross-entropy with unevenly ignored pixels, and feature terms that are means over images."""
    recipe = {"afdcd": tiny.RECIPES["afdcd"]["afdcd"]}
    batch = next(workshop.batches(0, 1))
    batch.labels[0, :20] = 255
    workshop.batches = lambda start, stop: iter([batch])
    found = []
    for size in (None, micro_batch):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(tiny.RECIPES, "features", recipe)
            patch.setattr("afdcd.training.loop.rehearse", lambda *arguments: None)
            found.append(gradients(workshop, workshop.distillation("features", auxiliary=False), size))
    whole, parts = found
    assert whole.keys() == parts.keys() and len(whole) > 20
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6)


def test_the_student_starts_alike_in_all_recipes(workshop: Any) -> None:
    alone = workshop.supervised().student.state_dict()
    for recipe in tiny.RECIPES:
        assert same(dict(alone), dict(workshop.distillation(recipe).student.state_dict()))
