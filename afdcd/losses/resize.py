"""Teacher maps brought to a student's size, for pairs of unequal output stride.

Without it methods refuse maps that differ in size. KA's encoder has a stride of its own for that, learnt.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from afdcd.losses.inputs import full_precision, wide
from afdcd.models.output import SegOutput, Stop

Grid = tuple[int, int]


def resized(tensor: Tensor, size: Grid) -> Tensor:
    """A map (B, C, H, W) at another size, bilinearly (align_corners=False); itself where it has that size.

    Halving averages 2x2 cells; a reduction by more leaves cells out, since nothing is smoothed before.
    """
    if tensor.shape[-2:] == size:
        return tensor
    with full_precision(tensor):
        return F.interpolate(wide(tensor), size, mode="bilinear", align_corners=False)


def teacher_to_student(student: SegOutput, teacher: SegOutput) -> SegOutput:
    """The teacher's output, each map at the size of the student's; stages are paired from the last back."""
    pairs = zip(reversed(teacher.features), reversed(student.features), strict=False)
    paired = [resized(theirs, _grid(ours)) for theirs, ours in pairs]
    unpaired = teacher.features[: len(teacher.features) - len(paired)]
    return teacher._replace(
        features=(*unpaired, *reversed(paired)),
        head_features=_like(teacher.head_features, student.head_features),
        logits=_like(teacher.logits, student.logits),
    )


class AtStride(nn.Module):
    """A teacher whose maps have a student's output stride, for first phases: no student is there yet."""

    def __init__(self, teacher: nn.Module, stride: int) -> None:
        super().__init__()
        self.teacher, self.stride = teacher, stride

    def forward(self, images: Tensor, *, stop: Stop = "logits") -> SegOutput:
        """The teacher's output on images (B, 3, H, W); of its stages only the last is resized."""
        height, width = images.shape[-2:]
        size = (-(-height // self.stride), -(-width // self.stride))
        output: SegOutput = self.teacher(images, stop=stop)
        fields = (output.head_features, output.logits)
        head_features, logits = (None if x is None else resized(x, size) for x in fields)
        features = (*output.features[:-1], resized(output.features[-1], size))
        return output._replace(features=features, head_features=head_features, logits=logits)


def _like(theirs: Tensor | None, ours: Tensor | None) -> Tensor | None:
    return theirs if theirs is None or ours is None else resized(theirs, _grid(ours))


def _grid(tensor: Tensor) -> Grid:
    return tensor.shape[-2], tensor.shape[-1]
