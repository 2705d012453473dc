"""FitNet: the teacher's features, number by number (Romero et al., ICLR 2015, arXiv 1412.6550)."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from afdcd.losses.inputs import full_precision, require_equal_shapes, wide
from afdcd.losses.method import Context, Method, Target
from afdcd.models.output import SegOutput, Stop


def feature_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two maps, over all numbers.

    Args:
        student: (B, C, H, W), adapted to the teacher's channels.
        teacher: (B, C, H, W), detached here.

    Raises:
        UserError: the shapes differ.
    """
    require_equal_shapes(student, teacher, "feature MSE")
    with full_precision(student):
        return F.mse_loss(wide(student), wide(teacher.detach()))


class FitNet(Method):
    """Squared error of the head's features after a 1x1 convolution without bias to the teacher's width.

    The convolution is there for equal channels too, as in the CIRKD codebase, whose weight is 10 beside
    logit distillation with weight 1.
    """

    terms: ClassVar[tuple[str, ...]] = ("feature_mse",)
    student_stop: ClassVar[Stop] = "head_features"
    teacher_stop: ClassVar[Stop] = "head_features"

    def __init__(self, context: Context) -> None:
        """Build the adapter."""
        super().__init__()
        self.align = nn.Conv2d(context.student.head_features, context.teacher.head_features, 1, bias=False)

    def forward(self, student: SegOutput, teacher: SegOutput, target: Target) -> dict[str, Tensor]:
        """The one term, "feature_mse"."""
        assert student.head_features is not None and teacher.head_features is not None, "run both to the head"
        return {"feature_mse": feature_mse(self.align(student.head_features), teacher.head_features)}
