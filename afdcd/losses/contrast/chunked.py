"""The contrast a chunk at a time: the gradient is formed at once, so no similarity outlives its chunk.

With a temperature of 0.07 all but a few of an anchor's similarities are below rounding. On a CPU these few
are found, and only they reach the gradient: the distances are then all that costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from afdcd.losses.contrast.rows import NORM, Setting, excluded, patch_rows, put_rows, stretches
from afdcd.losses.inputs import scaled

_CELLS_AT_ONCE = 2**18
"""Similarities formed at once: 1 MB in float32, a core's cache."""
_DIFFERENCES_AT_ONCE = 2**17
_NARROW = 64
"""Rows shorter than this: ATen's loop over pairs is faster than whole passes over differences."""
_FEW = 1 / 32
"""Share of pairs up to which they are gathered one by one."""


class Kernels(NamedTuple):
    """The two steps that cost most.

    Attributes:
        distances: (n, r, d) anchors, (n, R, d) rows, the distance -> (n, r, R).
        gradient: (n, r, R) derivatives by the distances, anchors, rows, distances (None by l1), the
            distance -> (n, r, d) by the anchors; a distance of zero, by l1 a difference of zero, has none.
    """

    distances: Callable[[Tensor, Tensor, str], Tensor]
    gradient: Callable[[Tensor, Tensor, Tensor, Tensor | None, str], Tensor]


def chunked(student: Tensor, teacher: Tensor, setting: Setting, kernels: Kernels | None = None) -> Tensor:
    """The sum over all anchors; see `afdcd.losses.contrast.forms.contrast`."""
    loss: Tensor = _Chunked.apply(student, teacher.detach(), setting, kernels or EAGER)
    return loss


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, setting: Setting, kernels: Kernels) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.zeros_like(student) if wanted else None
        total = torch.zeros((), dtype=_wide(student.dtype), device=student.device)
        rows = setting.rows
        height = max(1, min(rows, _CELLS_AT_ONCE // rows))
        idle = {
            row: excluded(row, min(height, rows - row), setting, student.device)
            for row in range(0, rows, height)
        }
        for images, *place in stretches(student, setting, _CELLS_AT_ONCE // rows**2):
            here = (images, slice(None), *place)
            anchors, others = (patch_rows(x[here], setting) for x in (student, teacher))
            slopes = torch.empty_like(anchors) if wanted else None
            for row, mask in idle.items():
                part = slice(row, row + height)
                work = _Work(anchors[:, part], others, row, mask, setting, kernels)
                loss, slope = _loss_and_gradient(work, wanted)
                total += loss
                if slopes is not None and slope is not None:
                    slopes[:, part] = slope
            if gradient is not None and slopes is not None:
                put_rows(slopes, gradient[here], setting)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return scaled(gradient, upstream), None, None, None


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class _Work(NamedTuple):
    """One chunk: (n, r, d) `anchors`, `start` and following of n patches, and all (n, R, d) teacher rows."""

    anchors: Tensor
    others: Tensor
    start: int
    idle: Tensor | None
    setting: Setting
    kernels: Kernels


def _loss_and_gradient(work: _Work, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """The sum over the anchors, and its gradient (n, r, d) where that is wanted."""
    anchors, start, temperature = work.anchors, work.start, work.setting.temperature
    distances = work.kernels.distances(anchors, work.others, work.setting.distance)
    # A gradient by l1 needs no distances again: they become the logits where they stand.
    known = None if work.setting.distance == "l1" else distances.clone()
    logits = distances.mul_(-1 / temperature)
    positive = logits.diagonal(start, dim1=-2, dim2=-1).clone()
    if work.idle is not None:
        logits.masked_fill_(work.idle, -torch.inf)
    logits.diagonal(start, dim1=-2, dim2=-1).fill_(-torch.inf)
    top = torch.maximum(logits.amax(-1), positive)
    own = (positive - top).exp_()
    pairs = _near(logits, top) if anchors.device.type == "cpu" else None
    if pairs is None:
        # e^-80 adds nothing to a sum of 1 or more, and exp is several times slower where it underflows.
        powers = logits.sub_(top[..., None]).clamp_(min=-80).exp_()
        rest = powers.sum(-1)
    else:
        anchor = pairs // logits.shape[-1]
        powers = (logits.view(-1)[pairs] - top.view(-1)[anchor]).exp_()
        rest = torch.zeros_like(top).view(-1).index_add_(0, anchor, powers).view_as(top)
    # Where the positive is on top, own is 1, and a small rest keeps all its digits.
    loss = ((own - 1 + rest).log1p() + (top - positive)).sum()
    if not wanted:
        return loss, None
    share = 1 / (temperature * (own + rest))
    if pairs is None:
        powers.mul_(-share[..., None]).diagonal(start, dim1=-2, dim2=-1).copy_(rest * share)
        return loss, work.kernels.gradient(powers, anchors, work.others, known, work.setting.distance)
    return loss, _gathered(work, pairs, -powers * share.view(-1)[anchor], rest * share)


def _gathered(work: _Work, pairs: Tensor, slope: Tensor, own: Tensor) -> Tensor:
    """The gradient (n, r, d) from the derivatives by a few distances.

    Args:
        work: the chunk.
        pairs: flat indices in (n, r, R).
        slope: derivatives by these distances.
        own: (n, r), derivatives by the distances of the positives.
    """
    anchors, others, distance = work.anchors, work.others, work.setting.distance
    (_, height, width), rows = anchors.shape, others.shape[1]
    gradient = _directions(anchors - others[:, work.start : work.start + height], distance)
    gradient.mul_(own[..., None])
    anchor, row = pairs // rows, pairs // (height * rows) * rows + pairs % rows
    pulls = _directions(anchors.reshape(-1, width)[anchor] - others.reshape(-1, width)[row], distance)
    gradient.view(-1, width).index_add_(0, anchor, pulls.mul_(slope[:, None]))
    return gradient


def _near(logits: Tensor, top: Tensor) -> Tensor | None:
    """Flat indices of all pairs that can change a sum; None where they are many.

    All others of an anchor together are less than the rounding of its sum.
    """
    reach = math.log(logits.shape[-1] / torch.finfo(logits.dtype).eps)
    near = (logits > (top - reach)[..., None]).view(-1)
    whole = near.numel() // 8 * 8
    # Eight flags at a time are one number, most of which are zero.
    words = near[:whole].view(torch.int64)
    if int(words.count_nonzero()) > _FEW * near.numel():
        return None
    words = words.nonzero()
    eight = torch.arange(8, device=near.device)
    found = torch.cat([(words * 8 + eight).view(-1), torch.arange(whole, near.numel(), device=near.device)])
    found = found[near[found]]
    return found if len(found) <= _FEW * near.numel() else None


def _directions(differences: Tensor, distance: str) -> Tensor:
    """The derivative of the norm of differences (..., d), 0 where it has none; in their memory."""
    if distance == "l1":
        return differences.sign_()
    norm = torch.linalg.vector_norm(differences, dim=-1, keepdim=True)
    return differences.div_(norm.masked_fill_(norm == 0, 1.0))


def _distances(anchors: Tensor, others: Tensor, distance: str) -> Tensor:
    if distance == "l1" and anchors.shape[-1] >= _NARROW and anchors.device.type == "cpu":
        return _wide_l1(anchors, others)
    return torch.cdist(anchors, others, NORM[distance], "donot_use_mm_for_euclid_dist")


def _wide_l1(anchors: Tensor, others: Tensor) -> Tensor:
    """(n, r, d), (n, R, d) -> (n, r, R) by whole passes over differences that stay in the cache."""
    blocks, rows, width = others.shape
    distances = anchors.new_empty(blocks, anchors.shape[1], rows)
    height = max(1, _DIFFERENCES_AT_ONCE // (rows * width))
    space = anchors.new_empty(min(height, anchors.shape[1]), rows, width)
    for block in range(blocks):
        for row in range(0, anchors.shape[1], height):
            some = anchors[block, row : row + height, None]
            differences = torch.sub(some, others[block], out=space[: len(some)]).abs_()
            torch.sum(differences, -1, out=distances[block, row : row + height])
    return distances


def _gradient(
    slope: Tensor, anchors: Tensor, others: Tensor, distances: Tensor | None, distance: str
) -> Tensor:
    norm, anchors = NORM[distance], anchors.contiguous()
    known = slope if distances is None else distances  # of its shape; the sum of magnitudes has no use for it
    gradient: Tensor = torch.ops.aten._cdist_backward(slope, anchors, others, norm, known)
    return gradient


EAGER = Kernels(_distances, _gradient)
