"""What every loss does to its inputs first: wide numbers, no autocast, equal grids."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from afdcd.errors import UserError
from afdcd.plugins import nearest


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is where it is float64 already: losses never add in half precision."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def full_precision(tensor: Tensor) -> torch.autocast:
    """A context in which autocast is off on the tensor's device."""
    return torch.autocast(tensor.device.type, enabled=False)


def require_equal_shapes(student: Tensor, teacher: Tensor, what: str) -> None:
    """Refuse two maps (B, C, H, W) that cannot be compared cell by cell.

    Raises:
        UserError: the shapes differ; the message holds both.
    """
    if student.shape == teacher.shape:
        return
    remedy = "give both networks the same output_stride"
    if student.shape[-2:] == teacher.shape[-2:]:
        remedy = "they must agree in batch size and channels (for logits: be trained for the same classes)"
    raise UserError(
        f"{what}: the student's map is {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}; {remedy}"
    )


def require_choice(loss: str, option: str, value: str, valid: Iterable[str]) -> None:
    """Refuse a word that an option does not know.

    Raises:
        UserError: `value` is not in `valid`; the nearest valid one is proposed.
    """
    if value not in (names := tuple(valid)):
        raise UserError(f"{loss}: unknown {option} {value!r}; {nearest(value, names)}")
