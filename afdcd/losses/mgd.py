"""Masked generative distillation (Yang et al., ECCV 2022, arXiv 2205.01529) on the backbone's last stage.

The rival that is nearest to Af-DCD, whose masked feature term it is: the same generator, mask and error. The
recipe adds channel-wise distillation of the logits, as the released segmentation code does.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from afdcd.config import Count, Share
from afdcd.losses.afdcd import masked_feature_loss
from afdcd.losses.generator import MaskedGenerator, random_keep_mask
from afdcd.losses.method import Context, Method, Target
from afdcd.models.output import SegOutput, Stop


class MGD(Method):
    """The teacher's features generated from the student's, most cells of which are dropped (equation 3)."""

    terms: ClassVar[tuple[str, ...]] = ("masked_generation",)
    student_stop: ClassVar[Stop] = "features"
    teacher_stop: ClassVar[Stop] = "features"

    def __init__(
        self,
        context: Context,
        *,
        mask_ratio: Share,
        bottleneck: Count | None,
        reduction: Literal["sum", "mean"],
    ) -> None:
        """Build the generator from the student's to the teacher's width.

        Args:
            context: the run's shapes.
            mask_ratio: expected share of dropped cells; 0.75 in the release.
            bottleneck: width of the generator in channels; None, as in the release, is the teacher's.
            reduction: of the squared error; "sum" (over C, H and W, divided by B) is the release's.
        """
        super().__init__()
        self.mask_ratio, self.reduction = mask_ratio, reduction
        channels = context.student.features[-1], context.teacher.features[-1]
        self.generator = MaskedGenerator(*channels, bottleneck)

    def forward(self, student: SegOutput, teacher: SegOutput, target: Target) -> dict[str, Tensor]:
        """The one term, "masked_generation".

        Raises:
            UserError: the feature maps differ in size.
        """
        features = student.features[-1]
        guess = self.generator(features, random_keep_mask(target.keys, features, self.mask_ratio))
        error = masked_feature_loss(guess, teacher.features[-1], reduction=self.reduction)
        return {"masked_generation": error}
