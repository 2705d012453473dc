"""Attention transfer: where the features are strong (Zagoruyko, Komodakis, ICLR 2017, arXiv 1612.03928)."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from afdcd.losses.inputs import full_precision, require_equal_grids, unit_vectors, wide
from afdcd.losses.method import Context, Method, Target
from afdcd.models.output import SegOutput, Stop


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two attention maps, each image's map a unit vector over its positions.

    The attention of a position is the mean over channels of its squared features, so the number of channels
    may differ. Ignored pixels take part: no label is read. Near a perfect student float32 rounds a value v by
    up to 5e-7 sqrt(v).

    Args:
        student: (B, C_S, H, W).
        teacher: (B, C_T, H, W), detached here.

    Raises:
        UserError: the maps differ in batch or size.
    """
    require_equal_grids(student, teacher, "attention transfer")
    with full_precision(student):
        return F.mse_loss(_attention(wide(student)), _attention(wide(teacher.detach())))


def _attention(features: Tensor) -> Tensor:
    """(B, H W), of length 1 per image."""
    return unit_vectors(features.square().mean(1).flatten(1))


class AttentionTransfer(Method):
    """Attention of the head's features; nothing to learn.

    The CIRKD codebase weighs it 10,000, against the mean over positions, beside logit distillation with 1.
    """

    terms: ClassVar[tuple[str, ...]] = ("attention",)
    student_stop: ClassVar[Stop] = "head_features"
    teacher_stop: ClassVar[Stop] = "head_features"

    def __init__(self, context: Context) -> None:
        """Nothing to build."""
        super().__init__()

    def forward(self, student: SegOutput, teacher: SegOutput, target: Target) -> dict[str, Tensor]:
        """The one term, "attention"."""
        assert student.head_features is not None and teacher.head_features is not None, "run both to the head"
        return {"attention": attention_transfer(student.head_features, teacher.head_features)}
