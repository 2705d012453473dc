"""Intra-class feature variation distillation (Wang et al., ECCV 2020, "IFVD")."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from afdcd.losses.classes import class_means, labels_on_grid, memberships
from afdcd.losses.inputs import full_precision, require_equal_grids, unit_vectors, wide
from afdcd.losses.method import Context, Method, Target
from afdcd.models.output import SegOutput, Stop


def intra_class_variation(
    student: Tensor, teacher: Tensor, labels: Tensor, *, ignore_index: int = 255
) -> Tensor:
    """Squared difference of how near each cell is to the centre of its class, by student and by teacher.

    Nearness is the cosine of a cell's vector with the mean vector of its class in its image; the number of
    channels may differ. Ignored cells count as equal: they add nothing but stay in the mean over B H W.
    Near a perfect student float32 rounds a value v by up to 5e-7 sqrt(v).

    Args:
        student: (B, C_S, H, W); gradients pass through the centres too.
        teacher: (B, C_T, H, W), detached here.
        labels: (B, any size), ids 0..254 or `ignore_index`; brought to H x W by nearest neighbour.
        ignore_index: the label of cells that belong to no class.

    Raises:
        UserError: the maps differ in batch or size.
    """
    require_equal_grids(student, teacher, "intra-class variation")
    small = labels_on_grid(labels, (student.shape[-2], student.shape[-1]))
    with full_precision(student):
        student, teacher = wide(student), wide(teacher.detach())
        members = memberships(small, ignore_index, student.dtype)
        return F.mse_loss(_nearness(student, members), _nearness(teacher, members.to(teacher)))


def _nearness(features: Tensor, members: Tensor) -> Tensor:
    """(B, H W) cosine of each cell with its class's centre; 0 for ignored cells, which have none."""
    centres = unit_vectors(class_means(features, members), dim=2).mT @ members
    return (unit_vectors(features.flatten(2)) * centres).sum(1)


class IntraClassVariation(Method):
    """Intra-class variation of the head's features; nothing to learn.

    The CIRKD codebase weighs it 20 beside logit distillation with 1 and SKD's adversarial term with 0.001;
    IFVD's own code weighs it 200 in a recipe of other conventions.
    """

    terms: ClassVar[tuple[str, ...]] = ("intra_class",)
    label_terms: ClassVar[tuple[str, ...]] = ("intra_class",)
    student_stop: ClassVar[Stop] = "head_features"
    teacher_stop: ClassVar[Stop] = "head_features"

    def __init__(self, context: Context) -> None:
        """Keep the ignore index."""
        super().__init__()
        self.ignore_index = context.ignore_index

    def forward(self, student: SegOutput, teacher: SegOutput, target: Target) -> dict[str, Tensor]:
        """The one term, "intra_class"."""
        assert student.head_features is not None and teacher.head_features is not None, "run both to the head"
        features = (student.head_features, teacher.head_features)
        return {
            "intra_class": intra_class_variation(*features, target.labels, ignore_index=self.ignore_index)
        }
