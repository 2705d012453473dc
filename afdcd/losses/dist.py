"""DIST: a teacher's relations by correlation (Huang et al., NeurIPS 2022, arXiv 2205.10536)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from afdcd.config import NonNegative
from afdcd.losses.inputs import full_precision, require_equal_shapes, wide
from afdcd.losses.method import Context, Method, Target
from afdcd.models.output import SegOutput, Stop

_EPSILON = 1e-8
"""Added to the product of two deviations, as released: a class that nobody predicts has none."""


def dist(student_logits: Tensor, teacher_logits: Tensor, *, beta: float = 1.0, gamma: float = 1.0) -> Tensor:
    """One minus Pearson's correlation of probabilities, between classes and within them.

    `beta` weighs the mean over pixels of the correlation over classes, `gamma` the mean over classes of the
    correlation over all pixels of the batch; halves of a batch do not average to the whole. Temperature is 1.
    Ignored pixels take part: no label is read. A uniform softmax has no direction: its gradient, divided by
    the epsilon alone, is finite but as large as 1e8. Near a perfect student float32 rounds the value by up to
    2.5e-7 (beta + gamma).

    Args:
        student_logits: (B, K, H, W), not upsampled.
        teacher_logits: (B, K, H, W), detached here.
        beta: weight of the relation between classes.
        gamma: weight of the relation within a class.

    Raises:
        UserError: the shapes differ.
    """
    require_equal_shapes(student_logits, teacher_logits, "DIST")
    with full_precision(student_logits):
        logits = (wide(student_logits), wide(teacher_logits.detach()))
        student, teacher = (x.softmax(1).transpose(0, 1).flatten(1) for x in logits)
        between = 1 - _pearson(student, teacher, 0).mean()
        within = 1 - _pearson(student, teacher, 1).mean()
        return beta * between + gamma * within


def _pearson(first: Tensor, second: Tensor, dim: int) -> Tensor:
    first, second = (x - x.mean(dim, keepdim=True) for x in (first, second))
    norms: Tensor = torch.linalg.vector_norm(first, dim=dim) * torch.linalg.vector_norm(second, dim=dim)
    return (first * second).sum(dim) / (norms + _EPSILON)


class DIST(Method):
    """DIST on the logits; nothing to learn. The release also weighs auxiliary logits by 0.4; we do not."""

    terms: ClassVar[tuple[str, ...]] = ("dist",)
    student_stop: ClassVar[Stop] = "logits"
    teacher_stop: ClassVar[Stop] = "logits"

    def __init__(self, context: Context, *, beta: NonNegative, gamma: NonNegative) -> None:
        """Keep the options."""
        super().__init__()
        self.beta, self.gamma = beta, gamma

    def forward(self, student: SegOutput, teacher: SegOutput, target: Target) -> dict[str, Tensor]:
        """The one term, "dist"."""
        assert student.logits is not None and teacher.logits is not None, "run both to the logits"
        return {"dist": dist(student.logits, teacher.logits, beta=self.beta, gamma=self.gamma)}
