from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from afdcd.errors import UserError
from afdcd.losses.method import Method
from afdcd.losses.objective import Objective
from afdcd.training.first_phase import load_first_phase, run_first_phase


class Encoder(Method):
    """Learns the mean of the teacher's inputs; has an adapter as wide as the student too."""

    terms: ClassVar[tuple[str, ...]] = ("encoded",)
    has_first_phase: ClassVar[bool] = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.active = frozenset(self.terms)
        self.mean = nn.Parameter(torch.zeros(1))
        self.adapter = nn.Linear(width, 1)

    def prepare(self, teacher: nn.Module, batches: Iterator[Tensor]) -> None:
        assert not teacher.training
        self.mean.data.fill_(teacher(next(batches)).mean())


def objective(width: int) -> Objective:
    return Objective({"encoder": Encoder(width)}, {"encoded": 1.0})


def test_only_what_was_learnt_is_kept_and_fits_any_student(tmp_path: Path) -> None:
    images = iter([torch.full((1, 3, 2, 2), 4.0)])
    found = run_first_phase(objective(5), ["encoder", "left_out"], nn.Identity(), images)
    assert {name: tensor.item() for name, tensor in found.items()} == {"methods.encoder.mean": 4.0}
    save_file(found, tmp_path / "state.safetensors")
    student = objective(7)
    load_first_phase(student, tmp_path / "state.safetensors")
    assert student.state_dict()["methods.encoder.mean"].item() == 4.0


def test_a_state_of_another_recipe_is_refused(tmp_path: Path) -> None:
    save_file({"methods.encoder.mean": torch.zeros(3)}, tmp_path / "state.safetensors")
    with pytest.raises(UserError, match="does not fit the recipe"):
        load_first_phase(objective(5), tmp_path / "state.safetensors")
