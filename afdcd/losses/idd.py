"""Inter-class distance distillation (Zhang, Zhou, Tu; IJCAI 2022, arXiv 2205.03650), reconstructed.

Reconstructed from the abstract: it says that the distances between classes in the teacher's feature space are
encoded in a graph and transferred, and that a module of its own transfers position information. Neither text
nor code was at hand, so every formula, size and rate below is a choice made here, and no published figure
says anything about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afdcd.config import Count, Positive
from afdcd.losses.classes import class_means, labels_on_grid
from afdcd.losses.inputs import (
    full_precision,
    require_choice,
    require_equal_grids,
    require_equal_shapes,
    wide,
)
from afdcd.losses.method import Context, Method, Target
from afdcd.models.output import SegOutput, Stop

Scale = Literal["none", "mean"]

_WIDTH = 64
"""Channels inside the position encoder."""


def inter_class_distance(
    student: Tensor, teacher: Tensor, labels: Tensor, *, ignore_index: int = 255, scale: Scale = "none"
) -> Tensor:
    """Squared difference of the distances between class means (IDD, reconstructed from the abstract).

    In each image, e_cd = ||p_c - p_d||_2 for every pair of classes that it holds, p_c the mean feature vector
    of class c. The loss is the mean over pairs of (e^S_cd - e^T_cd)^2, averaged over the images with two
    classes or more; zero, with a graph, where no image has them. The root is of the square plus 1e-12. In
    float32 a difference of edges keeps the rounding of the edges, about 1e-7 of their length.

    Args:
        student: (B, C_S, H, W).
        teacher: (B, C_T, H, W), detached here; only distances are compared, so channels may differ.
        labels: (B, H', W') integers, taken to the maps' size by nearest neighbour.
        ignore_index: the label of pixels that take no part.
        scale: "mean" divides each image's distances by their mean, which leaves nothing of an image with
            two classes.

    Raises:
        UserError: the maps differ in batch or size, or `scale` is unknown.
    """
    require_equal_grids(student, teacher, "inter-class distance")
    require_choice("inter-class distance", "scale", scale, get_args(Scale))
    near = labels_on_grid(labels, (student.shape[-2], student.shape[-1])).flatten(1)
    classes = near.unique()  # type: ignore[no-untyped-call]
    members = near[:, None] == classes[classes != ignore_index][:, None]
    present = members.any(2)
    count = members.shape[1]
    first, second = torch.triu_indices(count, count, 1, device=labels.device)
    joined = present[:, first] & present[:, second]
    with full_precision(student):
        ours, theirs = (
            _edges(wide(x), members, first, second, joined, scale) for x in (student, teacher.detach())
        )
        error = (ours - theirs).square().where(joined, 0).sum(1) / joined.sum(1).clamp_min(1)
        loss: Tensor = error.sum() / joined.any(1).sum().clamp_min(1)
    return loss


def position_information(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of two encoders' guesses where each cell is (IDD, reconstructed from the abstract).

    Args:
        student: (B, 2, H, W), the student's guesses.
        teacher: (B, 2, H, W), the teacher's, detached here.

    Raises:
        UserError: the shapes differ.
    """
    require_equal_shapes(student, teacher, "position information")
    with full_precision(student):
        return F.mse_loss(wide(student), wide(teacher.detach()))


def coordinates(features: Tensor) -> Tensor:
    """(1, 2, H, W): x / (W - 1) and y / (H - 1) of each cell of a map (B, C, H, W); 0 along a side of 1."""
    height, width = features.shape[-2:]
    y, x = (torch.arange(n, device=features.device) / max(n - 1, 1) for n in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))[None]


class PositionEncoder(nn.Sequential):
    """Reads from features where each cell is: two 3x3 convolutions, whose zero padding marks the borders.

    After Islam et al. (ICLR 2020, arXiv 2001.08248), who read absolute positions from networks so.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, _WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(_WIDTH, 2, 3, padding=1)
        )


class IDD(Method):
    """Inter-class distances and position information of the head's features, reconstructed from the abstract.

    The teacher's position encoder is fitted in a first phase and frozen; the student's learns with it.
    """

    terms: ClassVar[tuple[str, ...]] = ("inter_class_distance", "position_information")
    label_terms: ClassVar[tuple[str, ...]] = ("inter_class_distance",)
    student_stop: ClassVar[Stop] = "head_features"
    teacher_stop: ClassVar[Stop] = "head_features"
    has_first_phase: ClassVar[bool] = True

    def __init__(
        self,
        context: Context,
        *,
        scale: Literal["none", "mean"],
        first_phase_iterations: Count,
        first_phase_lr: Positive,
    ) -> None:
        """Build both position encoders.

        Args:
            context: the run's shapes.
            scale: what the distances of an image are divided by.
            first_phase_iterations: batches that the teacher's encoder sees.
            first_phase_lr: of its Adam.
        """
        super().__init__()
        self.ignore_index, self.scale = context.ignore_index, scale
        self.first_phase_iterations, self.first_phase_lr = first_phase_iterations, first_phase_lr
        self.teacher_encoder = PositionEncoder(context.teacher.head_features).requires_grad_(False)
        self.student_encoder = PositionEncoder(context.student.head_features)

    def activate(self, terms: frozenset[str]) -> None:
        """Keep to these terms, and the position encoders for "position_information" only."""
        super().activate(terms)
        if "position_information" not in terms:
            del self.teacher_encoder, self.student_encoder

    def forward(self, student: SegOutput, teacher: SegOutput, target: Target) -> dict[str, Tensor]:
        """The active ones of "inter_class_distance" and "position_information".

        Raises:
            UserError: the maps differ in size.
        """
        ours, theirs = student.head_features, teacher.head_features
        assert ours is not None and theirs is not None, "run both to the head features"
        values: dict[str, Tensor] = {}
        if "inter_class_distance" in self.active:
            values["inter_class_distance"] = inter_class_distance(
                ours, theirs, target.labels, ignore_index=self.ignore_index, scale=self.scale
            )
        if "position_information" in self.active:
            with torch.no_grad():
                known = self.teacher_encoder(theirs)
            values["position_information"] = position_information(self.student_encoder(ours), known)
        return values

    def prepare(self, teacher: nn.Module, batches: Iterator[Tensor]) -> None:
        """Fit the teacher's position encoder to the coordinates of the crop's cells.

        Args:
            teacher: a Segmenter in eval mode.
            batches: images (B, 3, H, W), RGB in 0..255.
        """
        if "position_information" not in self.active:
            return
        encoder = self.teacher_encoder.requires_grad_(True)
        optimiser = torch.optim.Adam(encoder.parameters(), self.first_phase_lr)
        for _ in range(self.first_phase_iterations):
            with torch.no_grad():
                features = wide(teacher(next(batches), stop="head_features").head_features)
            places = coordinates(features).expand(len(features), -1, -1, -1)
            loss = F.mse_loss(encoder(features), places)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        encoder.requires_grad_(False)


def _edges(
    features: Tensor, members: Tensor, first: Tensor, second: Tensor, joined: Tensor, scale: Scale
) -> Tensor:
    """Distances (B, pairs) of class means; those that `joined` (B, pairs) denies mean nothing."""
    means = class_means(features, members.to(features))
    edges = ((means[:, first] - means[:, second]).square().sum(2) + 1e-12).sqrt()
    if scale == "none":
        return edges
    mean = edges.where(joined, 0).sum(1, keepdim=True) / joined.sum(1, keepdim=True).clamp_min(1)
    return edges / mean.where(joined.any(1, keepdim=True), 1)
