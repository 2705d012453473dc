"""The contrast in C on a CPU: distances in registers, and only near rows reach sum and gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from afdcd.errors import UserError
from afdcd.losses.contrast.rows import Setting, patch_rows, put_rows, stretches
from afdcd.losses.inputs import scaled, wide
from afdcd.native.kernels import call, loaded, step_of

_NUMBERS_AT_ONCE = 2**18
"""Of the student's rows that are copied at once; at least one patch."""


def native(student: Tensor, teacher: Tensor, setting: Setting) -> Tensor:
    """The sum over all anchors; see `afdcd.losses.contrast.forms.contrast`.

    Raises:
        UserError: the kernels cannot be built here, or the maps are not on a CPU.
    """
    if student.device.type != "cpu":
        raise UserError(f"runtime.contrast: native needs a CPU, not {student.device.type}; set it to auto")
    if loaded().functions is None:
        raise UserError(
            f"runtime.contrast: native: {loaded().reason}; "
            "install a C compiler, or set runtime.contrast: auto"
        )
    loss: Tensor = _Native.apply(student, teacher.detach(), setting)
    return loss


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, setting: Setting) -> Tensor:
        gradient = torch.zeros_like(student) if ctx.needs_input_grad[0] else None
        total = wide(student.new_zeros(()))
        patches = max(1, _NUMBERS_AT_ONCE // (setting.rows * student.shape[1] // setting.groups))
        for images, *place in stretches(student, setting, patches):
            here = (images, slice(None), *place)
            anchors, others = (patch_rows(x[here], setting) for x in (student, teacher))
            losses, slopes = _of_patches(anchors, others.to(anchors.dtype), setting, gradient is not None)
            total += losses.sum()
            if gradient is not None and slopes is not None:
                put_rows(slopes, gradient[here], setting)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return scaled(gradient, upstream), None, None


def _of_patches(
    anchors: Tensor, others: Tensor, setting: Setting, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Losses (n, R) of the patches' rows (n, R, d), and their gradient by the anchors where it is wanted."""
    assert anchors.shape == others.shape, "the kernel would read beyond the teacher's rows"
    patches, rows, width = anchors.shape
    columns = F.pad(others.mT, (0, -rows % step_of(others))).contiguous()
    losses = anchors.new_empty(patches, rows)
    slopes = torch.empty_like(anchors) if wanted else None
    # All rows below that are less than the rounding of an anchor's sum.
    reach = math.log(rows / torch.finfo(anchors.dtype).eps)
    call(
        *("contrast", anchors, anchors, others, columns, losses, slopes),
        *(patches, rows, columns.shape[-1], width, setting.groups),
        *(int(setting.cross_group), int(setting.distance == "l2"), float(setting.temperature), reach),
    )
    return losses, slopes
