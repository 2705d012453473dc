"""The contrast on a GPU as one Triton kernel: a pass over the teacher's rows gives loss and gradient.

A program holds some anchors of a patch and reads that patch's rows one after another, as online softmax
does: a row that lowers the distance rescales what was gathered so far. Maps are read where they lie, so
beside the gradient nothing of their size is allocated. There are no atomics: results are the same bits
each time.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from afdcd.losses.contrast.rows import Setting
from afdcd.losses.inputs import scaled

INTERPRETED: bool = triton.knobs.runtime.interpret
"""Whether TRITON_INTERPRET was set when Triton was imported, so that kernels run on a CPU, slowly."""

_TILE = 2048
"""Elements of the anchors that a program holds, as registers of 4 warps allow."""


def triton_kernel(student: Tensor, teacher: Tensor, setting: Setting) -> Tensor:
    """The sum over all anchors; see `afdcd.losses.contrast.forms.contrast`."""
    loss: Tensor = _Fused.apply(student, teacher.detach(), setting)
    return loss


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, setting: Setting) -> Tensor:
        # A row's numbers are then neighbours in memory.
        student, teacher = (x.contiguous(memory_format=torch.channels_last) for x in (student, teacher))
        wanted = ctx.needs_input_grad[0]
        gradient = torch.zeros_like(student) if wanted else student
        (down, across), rows, width = setting.grid(student), setting.rows, student.shape[1] // setting.groups
        wide = torch.float64 if student.dtype == torch.float64 else torch.float32
        losses = torch.empty(len(student) * down * across, rows, dtype=wide, device=student.device)
        block = triton.next_power_of_2(width)
        height = max(1, min(triton.next_power_of_2(rows), _TILE // block))
        _contrast[(len(losses), triton.cdiv(rows, height))](
            student,
            teacher,
            gradient,
            losses,
            rows,
            down,
            across,
            *student.stride(),
            *teacher.stride(),
            1 / setting.temperature,
            patch_height=setting.patch[0],
            patch_width=setting.patch[1],
            groups=setting.groups,
            width=width,
            cross_group=setting.cross_group,
            squared=setting.distance == "l2",
            wanted=wanted,
            wide=tl.float64 if wide == torch.float64 else tl.float32,
            tile_rows=height,
            tile_width=block,
        )
        ctx.save_for_backward(gradient if wanted else None)
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return scaled(gradient, upstream), None, None


@triton.jit  # type: ignore[untyped-decorator]
def _places(row, sy, sx, sc, patch_width: tl.constexpr, groups: tl.constexpr, width: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where rows of a patch begin, from the patch's first number."""
    cell = row // groups
    return cell // patch_width * sy + cell % patch_width * sx + row % groups * (width * sc)


@triton.jit  # type: ignore[untyped-decorator]
def _length(difference, squared: tl.constexpr):  # type: ignore[no-untyped-def]
    if squared:
        return tl.sqrt(tl.sum(difference * difference, 1))
    else:
        return tl.sum(tl.abs(difference), 1)


@triton.jit  # type: ignore[untyped-decorator]
def _direction(difference, length, squared: tl.constexpr):  # type: ignore[no-untyped-def]
    """The derivative of the length, 0 where it has none."""
    if squared:
        return difference / tl.where(length > 0, length, 1.0)[:, None]
    else:
        return tl.where(difference > 0, 1.0, tl.where(difference < 0, -1.0, 0.0))


@triton.jit  # type: ignore[untyped-decorator]
def _contrast(  # type: ignore[no-untyped-def]
    student,
    teacher,
    gradient,
    losses,
    rows,
    down,
    across,
    sb,
    sc,
    sy,
    sx,
    tb,
    tc,
    ty,
    tx,
    sharpness,
    patch_height: tl.constexpr,
    patch_width: tl.constexpr,
    groups: tl.constexpr,
    width: tl.constexpr,
    cross_group: tl.constexpr,
    squared: tl.constexpr,
    wanted: tl.constexpr,
    wide: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_width: tl.constexpr,
):
    patch = tl.program_id(0).to(tl.int64)
    image, line, column = patch // (down * across), patch // across % down, patch % across
    s_patch = image * sb + line * patch_height * sy + column * patch_width * sx
    t_patch = image * tb + line * patch_height * ty + column * patch_width * tx
    row = tl.program_id(1) * tile_rows + tl.arange(0, tile_rows)
    place = tl.arange(0, tile_width)
    inside = (row < rows)[:, None] & (place < width)[None, :]
    s_rows = s_patch + _places(row, sy, sx, sc, patch_width, groups, width)[:, None] + (place * sc)[None, :]
    t_rows = t_patch + _places(row, ty, tx, tc, patch_width, groups, width)[:, None] + (place * tc)[None, :]
    anchor = tl.load(student + s_rows, mask=inside, other=0.0).to(wide)
    apart = _length(anchor - tl.load(teacher + t_rows, mask=inside, other=0.0).to(wide), squared)
    positive = -apart * sharpness
    top = positive
    rest = tl.zeros([tile_rows], wide)
    pull = tl.zeros([tile_rows, tile_width], wide)
    for other in range(rows):
        begin = t_patch + _places(other, ty, tx, tc, patch_width, groups, width)
        one = tl.load(teacher + begin + place * tc, mask=place < width, other=0.0).to(wide)
        difference = anchor - one[None, :]
        distance = _length(difference, squared)
        if cross_group:
            repels = row % groups != other % groups
        else:
            repels = row != other
        logit = tl.where(repels, -distance * sharpness, float("-inf"))
        higher = tl.maximum(top, logit)
        weight = tl.exp(logit - higher)
        kept = tl.exp(top - higher)
        rest = rest * kept + weight
        if wanted:
            # Most rows are too far from all anchors of the tile to change a digit.
            if tl.max(weight, 0) > 0:
                pull = pull * kept[:, None] + weight[:, None] * _direction(difference, distance, squared)
        top = higher
    own = tl.exp(positive - top)
    total = own + rest
    tl.store(losses + patch * rows + row, tl.log(total) + top - positive, mask=row < rows)
    if wanted:
        # Read again: kept from the start it would fill registers.
        away = anchor - tl.load(teacher + t_rows, mask=inside, other=0.0).to(wide)
        away = _direction(away, apart, squared)
        slope = (rest[:, None] * away - pull) * (sharpness / total)[:, None]
        tl.store(gradient + s_rows, slope, mask=inside)
