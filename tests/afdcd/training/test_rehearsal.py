from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

from afdcd.errors import UserError
from afdcd.training.rehearsal import memory_errors, rehearse, share_of

CPU = torch.device("cpu")


def test_shares() -> None:
    assert share_of(16, 2, None) == (8, 8)
    assert share_of(16, 2, 4) == (8, 4)


@pytest.mark.parametrize(
    ("batch_size", "processes", "micro_batch", "proposed"), [(8, 3, None, 9), (8, 2, 3, 6), (1, 4, None, 4)]
)
def test_an_indivisible_batch_is_refused_with_a_fitting_value(
    batch_size: int, processes: int, micro_batch: int | None, proposed: int
) -> None:
    with pytest.raises(UserError, match=f"batch_size {batch_size} is not divisible .* set it to {proposed},"):
        share_of(batch_size, processes, micro_batch)
    assert share_of(proposed, processes, micro_batch)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_no_memory_proposes_a_micro_batch(error: RuntimeError) -> None:
    with pytest.raises(UserError, match="12 image.* 8x9 .*micro_batch: 6"), memory_errors(12, (8, 9)):
        raise error
    with pytest.raises(UserError, match="smaller crop"), memory_errors(1, (8, 9)):
        raise error


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shape"), memory_errors(2, (8, 9)):
        raise RuntimeError("shape mismatch")


def test_a_real_lack_of_memory_is_recognised() -> None:
    with pytest.raises(UserError, match="micro_batch: 1"), memory_errors(2, (8, 9)):
        torch.empty(2**48)


def test_it_leaves_no_trace(workshop: Any) -> None:
    task = workshop.distillation()
    before = {name: tensor.clone() for name, tensor in task.learner.state_dict().items()}
    rehearse(task, 2, tiny.SIZE, CPU)
    assert all(tensor.equal(before[name]) for name, tensor in task.learner.state_dict().items())
    assert all(parameter.grad is None for parameter in task.learner.parameters())
    assert all(parameter.requires_grad for parameter in task.learner.parameters())


def test_what_no_loss_reaches_is_frozen(workshop: Any) -> None:
    task = workshop.supervised()
    task.learner.spare = torch.nn.Linear(2, 2)
    rehearse(task, 2, tiny.SIZE, CPU)
    frozen = [name for name, p in task.learner.named_parameters() if not p.requires_grad]
    assert frozen == ["spare.weight", "spare.bias"]


def test_one_image_a_pass_is_refused(workshop: Any) -> None:
    with pytest.raises(UserError, match="one image a step"):
        rehearse(workshop.supervised(), 1, tiny.SIZE, CPU)


def test_a_crop_smaller_than_a_contrast_patch_is_refused(workshop: Any) -> None:
    with pytest.raises(UserError, match="patch"):
        rehearse(workshop.distillation(), 2, (8, 8), CPU)
