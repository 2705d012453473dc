from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import tiny
import torch
from torch import nn
from trainer import write

from afdcd.errors import UserError
from pipeline import adapt, paths


def add_recipe(params: dict[str, Any], name: str, recipe: dict[str, Any]) -> None:
    """One more recipe, with a fingerprint as probe writes it."""
    params["distill"]["run"].append(name)
    params["distill"]["recipes"][name] = recipe
    for stage in ("adapt", "distill"):
        (paths.FINGERPRINTS / stage / f"{name}.json").write_text("{}")


def test_a_recipe_without_a_first_phase_costs_no_torch(params: dict[str, Any]) -> None:
    check = "import sys; from pipeline import adapt; adapt.main(['afdcd']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
    assert json.loads((paths.adapted("afdcd") / "state.json").read_text()) == {"methods": []}


def test_a_first_phase_learns_at_the_size_that_training_will_see(
    taught: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Size] = []

    def record(self: Any, teacher: nn.Module, batches: Any) -> None:
        seen.append(teacher(next(batches), stop="features").features[-1].shape[-2:])

    monkeypatch.setattr("afdcd.losses.ka.KA.prepare", record)
    ka = {"p": 1, "q": 2, "stride": 1, "sparsity": 0, "first_phase_iterations": 2, "first_phase_lr": 0.1}
    taught["students"]["tiny"] = tiny.MODEL | {"output_stride": 16}
    for resize in ("none", "teacher_to_student"):
        recipe = {"ka": {"weights": {"affinity": 1.0}, **ka}, "resize": resize}
        add_recipe(taught, f"ka_{resize}", recipe)
        write(taught)
        adapt.main([f"ka_{resize}"])
    assert seen == [(4, 8), (2, 4)]
    taught["students"]["fine"] = tiny.MODEL
    taught["train"]["students"] = ["tiny", "fine"]
    write(taught)
    with pytest.raises(UserError, match="needs students of one output_stride, not 8, 16"):
        adapt.main(["ka_teacher_to_student"])


def test_adapt_refuses_an_unknown_recipe(params: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="no recipe 'kdd'"):
        adapt.main(["kdd"])
