"""Channel-wise distillation: where each channel looks (Shu et al., ICCV 2021, arXiv 2011.13256)."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from afdcd.config import Positive
from afdcd.errors import UserError
from afdcd.losses.inputs import full_precision, require_equal_shapes, wide
from afdcd.losses.method import Context, Method, Target
from afdcd.models.output import SegOutput, Stop


def channel_wise(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """T^2 KL(teacher || student) of each channel's softmax over positions, averaged over channels.

    Ignored pixels take part: no label is read. Near a perfect student float32 rounds a channel's value by up
    to 1e-7 T (max|value| + T ln(H W)).

    Args:
        student: (B, C, H, W), logits or features.
        teacher: (B, C, H, W), detached here.
        temperature: T > 0.

    Raises:
        UserError: the shapes differ, or the temperature is impossible.
    """
    require_equal_shapes(student, teacher, "channel-wise distillation")
    if not temperature > 0:
        raise UserError(f"channel-wise distillation: temperature must be above 0, got {temperature}")
    with full_precision(student):
        divergence = F.kl_div(
            (wide(student).flatten(2) / temperature).log_softmax(2),
            (wide(teacher.detach()).flatten(2) / temperature).log_softmax(2),
            reduction="sum",
            log_target=True,
        )
    return divergence * (temperature**2 / (student.shape[0] * student.shape[1]))


class ChannelWise(Method):
    """Channel-wise distillation of logits and, as a second term, of the head's features.

    Features pass a 1x1 convolution without bias to the teacher's width. As in the released code the sum over
    the teacher's channels is then divided by the student's number of channels, not by its own; the released
    weight of 50 belongs to this convention. The weight for logits is 3.
    """

    terms: ClassVar[tuple[str, ...]] = ("channel_logits", "channel_features")
    student_stop: ClassVar[Stop] = "logits"
    teacher_stop: ClassVar[Stop] = "logits"

    def __init__(self, context: Context, *, temperature: Positive) -> None:
        """Build the adapter."""
        super().__init__()
        self.temperature = temperature
        channels = (context.student.head_features, context.teacher.head_features)
        self.align = nn.Conv2d(*channels, 1, bias=False)
        self.feature_factor = channels[1] / channels[0]

    def activate(self, terms: frozenset[str]) -> None:
        """Keep to these terms, and the adapter for "channel_features" only."""
        super().activate(terms)
        if "channel_features" not in terms:
            del self.align

    def forward(self, student: SegOutput, teacher: SegOutput, target: Target) -> dict[str, Tensor]:
        """The active ones of "channel_logits" and "channel_features"."""
        values: dict[str, Tensor] = {}
        if "channel_logits" in self.active:
            assert student.logits is not None and teacher.logits is not None, "run both to the logits"
            values["channel_logits"] = channel_wise(
                student.logits, teacher.logits, temperature=self.temperature
            )
        if "channel_features" in self.active:
            assert student.head_features is not None and teacher.head_features is not None
            aligned = self.align(student.head_features)
            value = channel_wise(aligned, teacher.head_features, temperature=self.temperature)
            values["channel_features"] = value * self.feature_factor
        return values
