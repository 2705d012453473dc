"""Logit distillation (Hinton et al. 2015, arXiv 1503.02531), pixel by pixel."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from afdcd.config import Positive
from afdcd.errors import UserError
from afdcd.losses.inputs import full_precision, require_choice, require_equal_shapes, wide
from afdcd.losses.method import Context, Method, Target
from afdcd.models.output import SegOutput, Stop

Reduction = Literal["pixel", "element"]


def logit_kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    reduction: Reduction = "pixel",
    class_weight: Tensor | None = None,
) -> Tensor:
    """T^2 KL(teacher || student) of the class distributions at temperature T, averaged over pixels.

    Ignored pixels take part: no label is read. With `class_weight` a pixel counts as much as the class
    weight that the teacher expects there, sum_k p_k w_k with p its plain softmax, and the sum is divided
    by the sum of these pixel weights; halves of a batch then no longer average to the whole.
    Near a perfect student float32 rounds a pixel's value by up to 1e-7 T (max|logit| + T ln K).

    Args:
        student_logits: (B, K, H, W), not upsampled.
        teacher_logits: (B, K, H, W), detached here.
        temperature: T > 0.
        reduction: "pixel" sums over classes; "element" divides that by K, as a plain mean does.
        class_weight: (K,) non-negative or None.

    Raises:
        UserError: the shapes differ, or an option is impossible.
    """
    require_equal_shapes(student_logits, teacher_logits, "logit KD")
    require_choice("logit KD", "reduction", reduction, get_args(Reduction))
    if not temperature > 0:
        raise UserError(f"logit KD: temperature must be above 0, got {temperature}")
    with full_precision(student_logits):
        student, teacher = wide(student_logits), wide(teacher_logits.detach())
        divergence = F.kl_div(
            (student / temperature).log_softmax(1),
            (teacher / temperature).log_softmax(1),
            reduction="none",
            log_target=True,
        ).sum(1)
        if class_weight is None:
            mean = divergence.mean()
        else:
            pixel_weight = (teacher.softmax(1) * class_weight.to(teacher).view(-1, 1, 1)).sum(1)
            mean = (divergence * pixel_weight).sum() / pixel_weight.sum()
        classes = student.shape[1] if reduction == "element" else 1
        return mean * (temperature**2 / classes)


class LogitKD(Method):
    """Logit distillation as a method: one term, nothing to learn."""

    terms: ClassVar[tuple[str, ...]] = ("kd",)
    student_stop: ClassVar[Stop] = "logits"
    teacher_stop: ClassVar[Stop] = "logits"

    class_weight: Tensor | None

    def __init__(
        self, context: Context, *, temperature: Positive, reduction: Reduction, class_weighted: bool
    ) -> None:
        """Keep the options.

        Raises:
            UserError: `class_weighted` in a run without class weights.
        """
        super().__init__()
        if class_weighted and context.class_weights is None:
            raise UserError("kd: class_weighted needs train.practice.class_weights other than none")
        self.temperature, self.reduction = temperature, reduction
        weight = context.class_weights if class_weighted else None
        self.register_buffer("class_weight", weight, persistent=False)

    def forward(self, student: SegOutput, teacher: SegOutput, target: Target) -> dict[str, Tensor]:
        """The one term, "kd"."""
        assert student.logits is not None and teacher.logits is not None, "run both to the logits"
        return {
            "kd": logit_kd(
                student.logits,
                teacher.logits,
                temperature=self.temperature,
                reduction=self.reduction,
                class_weight=self.class_weight,
            )
        }
