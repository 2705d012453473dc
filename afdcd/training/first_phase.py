"""The first phase of methods that learn something about the teacher before any student is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from safetensors.torch import load_file
from torch import Tensor, nn

from afdcd.errors import UserError
from afdcd.losses.method import Method
from afdcd.losses.objective import Objective

FIRST_PHASE = "state.safetensors"


def run_first_phase(
    objective: Objective, methods: Sequence[str], teacher: nn.Module, images: Iterator[Tensor]
) -> dict[str, Tensor]:
    """Let each method prepare itself on the frozen teacher; what it changed, by its name in the objective.

    Args:
        objective: of the recipe; a method left out of it (no weight) is skipped.
        methods: names of those with a first phase.
        teacher: a Segmenter in eval mode.
        images: batches (B, 3, H, W), RGB in 0..255, as many as the methods take.
    """
    teacher.eval().requires_grad_(False)
    before = {name: tensor.detach().clone() for name, tensor in objective.state_dict().items()}
    for name in methods:
        if name in objective.methods:
            cast(Method, objective.methods[name]).prepare(teacher, images)
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in objective.state_dict().items()
        if not tensor.equal(before[name])
    }


def load_first_phase(objective: Objective, path: Path) -> None:
    """Give an objective what `run_first_phase` found.

    Raises:
        UserError: the file does not fit the recipe.
    """
    tensors = load_file(path)
    own = objective.state_dict()
    wrong = [name for name, tensor in tensors.items() if name not in own or own[name].shape != tensor.shape]
    if wrong:
        raise UserError(f"{path} does not fit the recipe ({wrong[0]}); run dvc repro adapt")
    objective.load_state_dict(tensors, strict=False)
