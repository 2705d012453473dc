"""What tests of the training loop share: weights compared bit for bit, and a stop at a chosen iteration."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from afdcd.errors import UserError
from afdcd.training.loop import Training
from afdcd.training.stopping import StopRequest
from afdcd.training.task import Task


def weights(task: Task) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in task.learner.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


def stop_after(training: Training, iteration: int, request: StopRequest) -> None:
    """Ask for a stop as soon as `iteration` iterations are done."""
    step = training._step

    def counted(number: int, *rest: Any) -> None:
        step(number, *rest)
        request.asked = number + 1 == iteration

    training._step = counted  # type: ignore[method-assign]


def stop_after_five(workshop: Any, recipe: str = "afdcd") -> None:
    """Train in a folder of its own and stop after 5 iterations, between checkpoints; the state is saved."""
    workshop.folder = workshop.folder / "broken"
    request = StopRequest()
    training = workshop.training(workshop.distillation(recipe))
    stop_after(training, 5, request)
    with pytest.raises(UserError, match="stopped as asked after iteration 5 of 8; the state is saved"):
        training.run(request)
