"""Structured knowledge distillation: pair-wise and holistic terms (Liu et al., CVPR 2019, 1903.04197)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from afdcd.config import Count, Positive
from afdcd.errors import UserError
from afdcd.losses.discriminator import Discriminator
from afdcd.losses.inputs import full_precision, require_equal_grids, require_equal_shapes, unit_vectors, wide
from afdcd.losses.method import Adam, Context, Method, ParamGroup, Target
from afdcd.models.output import SegOutput, Stop

_ADAM = Adam(lr=4e-4, betas=(0.9, 0.99))
"""The discriminator's own, as released."""


def pairwise_affinity(student: Tensor, teacher: Tensor, *, pool: int = 2) -> Tensor:
    """Mean squared difference of the cosines of all pairs of positions.

    Maps are max-pooled first, windows at the border smaller where they do not fit; the number of channels may
    differ. Ignored pixels take part: no label is read. Memory: (H W / pool^2)^2 numbers per image.
    Near a perfect student float32 rounds a value v by up to 5e-7 sqrt(v).

    Args:
        student: (B, C_S, H, W).
        teacher: (B, C_T, H, W), detached here.
        pool: window and stride of the max pooling in cells; 1 pools nothing.

    Raises:
        UserError: the maps differ in batch or size, or `pool` is below 1.
    """
    require_equal_grids(student, teacher, "pair-wise affinity")
    if pool < 1:
        raise UserError(f"pair-wise affinity: pool {pool} must be at least 1 (no pooling)")
    with full_precision(student):
        nodes = []
        for features in (student, teacher.detach()):
            pooled = features if pool == 1 else F.max_pool2d(features, pool, ceil_mode=True)
            nodes.append(unit_vectors(wide(pooled).flatten(2)))
        of_student, of_teacher = (x.mT @ x for x in nodes)
        return F.mse_loss(of_student, of_teacher)


def hinge_discriminator(student_scores: Tensor, teacher_scores: Tensor) -> Tensor:
    """The discriminator's loss: teacher's scores above 1, student's below -1; means over all scores."""
    return F.relu(1 - teacher_scores).mean() + F.relu(1 + student_scores).mean()


def hinge_generator(student_scores: Tensor) -> Tensor:
    """The student's loss: to be scored as high as may be."""
    return -student_scores.mean()


class SKD(Method):
    """Pair-wise affinity of the head's features, and a discriminator that the student's logits must please.

    Weights of the CIRKD codebase: pair-wise 10, adversarial 0.001, and 0.1 on the discriminator's loss,
    beside logit distillation with 1; hinge losses, where the first release defaults to WGAN-GP. The opponent
    is trained by `side_losses`; "adversarial" leads gradients through it, none into it.
    """

    terms: ClassVar[tuple[str, ...]] = ("pairwise", "adversarial")
    student_stop: ClassVar[Stop] = "logits"
    teacher_stop: ClassVar[Stop] = "logits"

    def __init__(
        self,
        context: Context,
        *,
        pool: Count,
        discriminator_weight: Positive,
        discriminator_width: Count,
    ) -> None:
        """Build the discriminator."""
        super().__init__()
        self.pool = pool
        self.discriminator_weight = discriminator_weight
        self.discriminator = Discriminator(context.student.num_classes, discriminator_width)

    def activate(self, terms: frozenset[str]) -> None:
        """Keep to these terms, and the discriminator for "adversarial" only."""
        super().activate(terms)
        if "adversarial" not in terms:
            del self.discriminator

    def forward(self, student: SegOutput, teacher: SegOutput, target: Target) -> dict[str, Tensor]:
        """The active ones of "pairwise" and "adversarial"."""
        values: dict[str, Tensor] = {}
        if "pairwise" in self.active:
            assert student.head_features is not None and teacher.head_features is not None
            features = (student.head_features, teacher.head_features)
            values["pairwise"] = pairwise_affinity(*features, pool=self.pool)
        if "adversarial" in self.active:
            assert student.logits is not None and teacher.logits is not None, "run both to the logits"
            require_equal_shapes(student.logits, teacher.logits, "adversarial term")
            values["adversarial"] = hinge_generator(self._frozen_scores(student.logits))
        return values

    def side_losses(self, student: SegOutput, teacher: SegOutput, target: Target) -> dict[str, Tensor]:
        """The weighted loss "discriminator", where "adversarial" is active."""
        if "adversarial" not in self.active:
            return {}
        assert student.logits is not None and teacher.logits is not None, "run both to the logits"
        self.discriminator.train()
        with full_precision(student.logits):
            # One pass for both, so that the spectral norm takes one step an iteration.
            both = torch.cat([wide(student.logits.detach()), wide(teacher.logits.detach())])
            loss = hinge_discriminator(*self.discriminator(both).chunk(2))
        return {"discriminator": loss * self.discriminator_weight}

    def param_groups(self) -> list[ParamGroup]:
        """The discriminator by its own Adam, unclipped."""
        own = list(self.parameters())
        return [ParamGroup(own, clip=False, adam=_ADAM)] if own else []

    def _frozen_scores(self, logits: Tensor) -> Tensor:
        """Scores without a step of the spectral norm and without gradients into the discriminator."""
        self.discriminator.eval()
        fixed = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        with full_precision(logits):
            scores: Tensor = functional_call(self.discriminator, fixed, (wide(logits),))
        return scores
