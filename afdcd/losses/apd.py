"""Adaptive perspective distillation (Tian et al., TPAMI 2022), after the released code.

A perspective is one prototype a class, the mean of the cells that hold it in the batch at hand. Both networks
see their cells from their own perspectives; the student learns the teacher's view and its prototypes. An
adapter of the teacher's learns beside it to see well. The logits are distilled as elsewhere: the recipe adds
`kd` with the element mean, of weight 10 in the release.
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afdcd.config import Positive
from afdcd.errors import UserError
from afdcd.losses.classes import labels_on_grid
from afdcd.losses.inputs import full_precision, require_choice, require_equal_shapes, unit_vectors, wide
from afdcd.losses.method import Adam, Context, Method, ParamGroup, Target
from afdcd.models.output import SegOutput, Stop

Prototypes = Literal["batch", "image"]

_ABSENT = -1e30
"""The logit of a class that a perspective has not: no share in any softmax, and no NaN where two meet."""


def adaptive_perspective(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.1,
    num_classes: int,
    ignore_index: int = 255,
    prototypes: Prototypes = "batch",
) -> tuple[Tensor, Tensor, Tensor]:
    """The three losses of APD on adapted features: (local, teacher_ce, align).

    With u the cells at unit length, q_k the mean of u over the cells of class k at unit length, and N the
    classes that the batch (or image) holds, a cell's local logits are <u, q_k> / temperature.

    - local: sum over classes of KL(teacher || student) of their softmax over the N classes, averaged over
      cells, ignored ones too, and divided by N, as a plain mean over elements does.
    - teacher_ce: cross-entropy of the teacher's local logits, 0 for absent classes, upsampled bilinearly
      (align_corners=True) to the labels. It alone leads gradients to `teacher`, and none to the student.
    - align: mean over the N classes of (1 - <q_k, r_k>) / 2 with r_k the teacher's prototypes.

    Without any labelled cell all three are zero with a graph. Near a perfect student the rounding of float32
    leaves about 1e-7 / temperature of `local` and 1e-7 of `align`.

    Args:
        student: (B, C, H, W), adapted.
        teacher: (B, C, H, W), adapted; detached in `local` and `align`.
        labels: (B, H', W') integers, taken to the maps' size by nearest neighbour for the prototypes.
        temperature: > 0; 0.1 is the release's factor of 10.
        num_classes: K.
        ignore_index: the label of pixels that take no part in prototypes and cross-entropy.
        prototypes: "batch" is one set from all images, as released; "image" one set from each, as the
            paper's text says, and the losses averaged over images.

    Raises:
        UserError: the shapes differ, or an option is impossible.
    """
    require_equal_shapes(student, teacher, "adaptive perspective")
    _require_options(temperature, prototypes)
    with full_precision(student):
        members = _members(student, labels, num_classes, ignore_index)
        ours = _perspective(student, members, temperature, prototypes)
        fixed = _perspective(teacher.detach(), members, temperature, prototypes)
    local, align = _local(ours, fixed), _align(ours, fixed)
    cross_entropy = teacher_cross_entropy(
        teacher,
        labels,
        temperature=temperature,
        num_classes=num_classes,
        ignore_index=ignore_index,
        prototypes=prototypes,
    )
    return local, cross_entropy, align


def teacher_cross_entropy(
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    num_classes: int,
    ignore_index: int,
    prototypes: Prototypes,
) -> Tensor:
    """What trains the teacher's adapter: the second loss of `adaptive_perspective`, by itself.

    Args:
        teacher: (B, C, H, W), adapted; not detached.
        labels: (B, H', W') integers.
        temperature: > 0.
        num_classes: K.
        ignore_index: the label of pixels that take no part.
        prototypes: as in `adaptive_perspective`.

    Raises:
        UserError: an option is impossible.
    """
    _require_options(temperature, prototypes)
    with full_precision(teacher):
        members = _members(teacher, labels, num_classes, ignore_index)
        view = _perspective(teacher, members, temperature, prototypes)
        height, width = teacher.shape[-2:]
        logits = view.logits.where(view.present[..., None], 0).view(-1, num_classes, height, width)
        logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=True)
        labels = labels.long()
        losses = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
        valid = labels != ignore_index
        if prototypes == "batch":
            return losses.sum() / valid.sum().clamp_min(1)
        return (losses.sum((1, 2)) / valid.sum((1, 2)).clamp_min(1)).mean()


class APD(Method):
    """Local logits and prototypes of the head's features, through an adapter on either side."""

    terms: ClassVar[tuple[str, ...]] = ("perspective_local", "perspective_align")
    label_terms: ClassVar[tuple[str, ...]] = ("perspective_local", "perspective_align")
    student_stop: ClassVar[Stop] = "head_features"
    teacher_stop: ClassVar[Stop] = "head_features"

    def __init__(
        self,
        context: Context,
        *,
        temperature: Positive,
        prototypes: Literal["batch", "image"],
        adapter_lr_factor: Positive,
        teacher_adapter_lr: Positive,
    ) -> None:
        """Build both adapters, to the width of the teacher's head.

        Args:
            context: the run's shapes.
            temperature: of the local logits.
            prototypes: from the batch or from each image.
            adapter_lr_factor: of the student's adapter over the student; 10 in the release.
            teacher_adapter_lr: of the teacher's adapter's Adam (betas 0.9 and 0.99); 1e-5 in the release,
                where it never falls while it falls with the schedule here.
        """
        super().__init__()
        width = context.teacher.head_features
        self.num_classes, self.ignore_index = context.student.num_classes, context.ignore_index
        self.temperature, self.prototypes = temperature, prototypes
        self.adapter_lr_factor, self.teacher_adapter_lr = adapter_lr_factor, teacher_adapter_lr
        self.student_adapter = _adapter(context.student.head_features, width)
        self.teacher_adapter = _adapter(width, width)

    def forward(self, student: SegOutput, teacher: SegOutput, target: Target) -> dict[str, Tensor]:
        """The active ones of "perspective_local" and "perspective_align".

        Raises:
            UserError: the maps differ in size.
        """
        assert student.head_features is not None and teacher.head_features is not None
        ours = self.student_adapter(student.head_features)
        with torch.no_grad():
            theirs = self.teacher_adapter(teacher.head_features)
        require_equal_shapes(ours, theirs, "adaptive perspective")
        with full_precision(ours):
            members = _members(ours, target.labels, self.num_classes, self.ignore_index)
            views = [_perspective(x, members, self.temperature, self.prototypes) for x in (ours, theirs)]
        values: dict[str, Tensor] = {}
        if "perspective_local" in self.active:
            values["perspective_local"] = _local(*views)
        if "perspective_align" in self.active:
            values["perspective_align"] = _align(*views)
        return values

    def side_losses(self, student: SegOutput, teacher: SegOutput, target: Target) -> dict[str, Tensor]:
        """The teacher's adapter's own objective, "perspective_teacher"."""
        assert teacher.head_features is not None, "run the teacher to its head features"
        return {
            "perspective_teacher": teacher_cross_entropy(
                self.teacher_adapter(teacher.head_features.detach()),
                target.labels,
                temperature=self.temperature,
                num_classes=self.num_classes,
                ignore_index=self.ignore_index,
                prototypes=self.prototypes,
            )
        }

    def param_groups(self) -> list[ParamGroup]:
        """The student's adapter at a multiple of the rate; the teacher's in an Adam of its own, unclipped."""
        own = Adam(self.teacher_adapter_lr, (0.9, 0.99))
        return [
            ParamGroup(list(self.student_adapter.parameters()), lr_factor=self.adapter_lr_factor),
            ParamGroup(list(self.teacher_adapter.parameters()), clip=False, adam=own),
        ]


class _Perspective(NamedTuple):
    """One network's view; G is 1 for prototypes of the batch, B for those of images.

    `prototypes` (G, K, C) are zero and `present` (G, K) false for absent classes; `logits` are (B, K, H W).
    """

    prototypes: Tensor
    present: Tensor
    logits: Tensor


def _adapter(given: int, wanted: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(given, wanted, 1), nn.ReLU(), nn.Conv2d(wanted, wanted, 1))


def _require_options(temperature: float, prototypes: str) -> None:
    require_choice("adaptive perspective", "prototypes", prototypes, get_args(Prototypes))
    if not temperature > 0:
        raise UserError(f"adaptive perspective: temperature must be above 0, got {temperature}")


def _members(features: Tensor, labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """(B, K, H W), 1 where a cell is of a class, in the features' wide type."""
    near = labels_on_grid(labels, (features.shape[-2], features.shape[-1])).flatten(1)[:, None]
    ids = torch.arange(num_classes, device=labels.device)[:, None]
    return ((near == ids) & (near != ignore_index)).to(wide(features))


def _perspective(
    features: Tensor, members: Tensor, temperature: float, prototypes: Prototypes
) -> _Perspective:
    """The view of a map (B, C, H, W) whose cells belong to classes as `members` (B, K, H W) says."""
    cells = unit_vectors(wide(features)).flatten(2)
    sums, counts = members @ cells.mT, members.sum(2)
    if prototypes == "batch":
        sums, counts = sums.sum(0, keepdim=True), counts.sum(0, keepdim=True)
    # At unit length a sum and a mean are the same.
    directions = unit_vectors(sums, dim=2)
    return _Perspective(directions, counts > 0, directions @ cells / temperature)


def _local(student: _Perspective, teacher: _Perspective) -> Tensor:
    """KL of the local softmaxes, mean over cells and present classes; averaged over images."""
    present = student.present[..., None]
    ours, theirs = (view.logits.masked_fill(~present, _ABSENT).log_softmax(1) for view in (student, teacher))
    divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).where(present, 0).sum(1)
    return (divergence / student.present.sum(1, keepdim=True).clamp_min(1)).mean()


def _align(student: _Perspective, teacher: _Perspective) -> Tensor:
    """Half of one minus the cosine of the prototypes of a class, mean over present ones."""
    cosines = (student.prototypes * teacher.prototypes).sum(2)
    apart = ((1 - cosines) / 2).where(student.present, 0).sum(1)
    return (apart / student.present.sum(1).clamp_min(1)).mean()
