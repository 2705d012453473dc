"""What every loss does to its inputs first: wide numbers, no autocast, equal grids, unit vectors."""

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


def scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    """The gradient times upstream, in its own memory where no second backward pass can follow."""
    kept = torch._C._autograd._get_current_graph_task_keep_graph()
    return gradient * upstream if kept else gradient.mul_(upstream)


def require_equal_shapes(student: Tensor, teacher: Tensor, what: str) -> None:
    """Refuse two maps (B, C, H, W) that cannot be compared cell by cell.

    Raises:
        UserError: the shapes differ; the message holds both.
    """
    require_equal_grids(student, teacher, what)
    if student.shape != teacher.shape:
        raise UserError(
            f"{_both(student, teacher, what)}; "
            "they must agree in channels (for logits: be trained for the same classes)"
        )


def require_equal_grids(student: Tensor, teacher: Tensor, what: str) -> None:
    """Refuse two maps (B, C, H, W) of different batch or size; channels may differ.

    Raises:
        UserError: the shapes differ in more than channels; the message holds both.
    """
    if student.shape[-2:] != teacher.shape[-2:]:
        raise UserError(
            f"{_both(student, teacher, what)}; "
            "give both networks the same output_stride, or the recipe resize: teacher_to_student"
        )
    if len(student) != len(teacher):
        raise UserError(f"{_both(student, teacher, what)}; they must agree in batch size")


def _both(student: Tensor, teacher: Tensor, what: str) -> str:
    return f"{what}: the student's map is {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}"


def unit_vectors(vectors: Tensor, *, dim: int = 1, order: float = 2) -> Tensor:
    """Vectors along `dim` divided by their norm; a vector of zeros, which a ReLU makes, stays zero.

    A norm clamped at 1e-12 from below would give such vectors gradients 1e12 times too large.
    """
    norm: Tensor = torch.linalg.vector_norm(vectors, order, dim, keepdim=True)
    return vectors / norm.masked_fill(norm == 0, 1.0)


def require_choice(loss: str, option: str, value: str, valid: Iterable[str]) -> None:
    """Refuse a word that an option does not know.

    Raises:
        UserError: `value` is not in `valid`; the nearest valid one is proposed.
    """
    if value not in (names := tuple(valid)):
        raise UserError(f"{loss}: unknown {option} {value!r}; {nearest(value, names)}")
