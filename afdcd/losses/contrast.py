"""Contrast of rows: pull student row i to teacher row i, push it from other teacher rows of its block.

With D the distance of two rows and i an anchor, -log( e^{-D_ii/t} / sum_j e^{-D_ij/t} ), j over the kept
columns, summed over all anchors. `dense` says it plainly; `chunked` is what trains.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Distance = Literal["l1", "l2"]
Negatives = Literal["cross_group", "all"]

_NORM = {"l1": 1.0, "l2": 2.0}
_CELLS_AT_ONCE = 2**19
"""Similarities formed at once: 2 MB in float32, which stays in a core's cache."""


def dense(
    student: Tensor, teacher: Tensor, *, temperature: float, distance: Distance, groups: int | None
) -> Tensor:
    """The sum over all anchors by ordinary autograd; every similarity is in memory at once.

    Args:
        student: (G, R, d) rows of G blocks; row r belongs to channel group r % groups.
        teacher: the same shape.
        temperature: t > 0.
        distance: norm of the difference of two rows, not squared.
        groups: rows of the anchor's own group are no negatives; None keeps all rows.
    """
    logits = _distances(student, teacher, distance) * (-1 / temperature)
    positive = logits.diagonal(dim1=-2, dim2=-1)
    excluded = _excluded(0, student, teacher, groups)
    if excluded is not None:
        logits = logits.masked_fill(excluded, -torch.inf)
    return (logits.logsumexp(-1) - positive).sum()


def chunked(
    student: Tensor, teacher: Tensor, *, temperature: float, distance: Distance, groups: int | None
) -> Tensor:
    """`dense`, a chunk at a time: the gradient is formed at once, so no similarity outlives its chunk.

    The teacher receives no gradient; second derivatives are refused.
    """
    loss: Tensor = _Chunked.apply(student, teacher.detach(), temperature, distance, groups)
    return loss


def _distances(student: Tensor, teacher: Tensor, distance: Distance) -> Tensor:
    """(G, r, d), (G, R, d) -> (G, r, R), differentiable; a distance of zero has the derivative zero."""
    # The matrix product that cdist takes for many rows loses small distances by cancellation.
    return torch.cdist(student, teacher, _NORM[distance], "donot_use_mm_for_euclid_dist")


def _excluded(start: int, student: Tensor, teacher: Tensor, groups: int | None) -> Tensor | None:
    """(r, R) bool, True where a pair of an anchor and a teacher row takes no part; None where all do."""
    if groups is None:
        return None
    anchors = torch.arange(start, start + student.shape[1], device=student.device)[:, None]
    others = torch.arange(teacher.shape[1], device=student.device)
    return (anchors % groups == others % groups) & (anchors != others)


def _loss_and_slope(
    distances: Tensor, start: int, temperature: float, excluded: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The sum over anchors `start`, `start` + 1, ... of each block, and its derivative by the distances.

    Args:
        distances: (G, r, R) of r anchors to all teacher rows.
        start: the first anchor's row.
        temperature: t > 0.
        excluded: (r, R) or None.
    """
    logits = distances * (-1 / temperature)
    positive = logits.diagonal(start, dim1=-2, dim2=-1).clone()
    if excluded is not None:
        logits.masked_fill_(excluded, -torch.inf)
    top = logits.amax(-1, keepdim=True)
    # e^-80 adds nothing to a sum of 1 or more, and exp is several times slower where it underflows.
    powers = logits.sub_(top).clamp_(min=-80).exp_()
    total = powers.sum(-1, keepdim=True)
    loss = (total.log() + top).squeeze(-1) - positive
    slope = powers.mul_(-1 / (temperature * total))
    slope.diagonal(start, dim1=-2, dim2=-1).add_(1 / temperature)
    return loss.sum(), slope


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, temperature: float, distance: Distance, groups: int | None
    ) -> Tensor:
        blocks, rows, _ = student.shape
        height = max(1, min(rows, _CELLS_AT_ONCE // rows))
        depth = max(1, _CELLS_AT_ONCE // (height * rows))
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(student) if wanted else None
        total = student.new_zeros(())
        for row in range(0, rows, height):
            excluded = _excluded(row, student[:, row : row + height], teacher, groups)
            for block in range(0, blocks, depth):
                part = (slice(block, block + depth), slice(row, row + height))
                anchors = student[part].detach().requires_grad_(wanted)
                with torch.set_grad_enabled(wanted):
                    distances = _distances(anchors, teacher[part[0]], distance)
                loss, slope = _loss_and_slope(distances.detach(), row, temperature, excluded)
                if gradient is not None:
                    gradient[part] = torch.autograd.grad(distances, anchors, slope)[0]
                total += loss
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None, None, None
