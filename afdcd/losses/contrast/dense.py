"""The reference: every similarity in memory at once, the gradient by ordinary autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from afdcd.losses.contrast.rows import NORM, Setting, excluded, patch_rows


def dense(student: Tensor, teacher: Tensor, setting: Setting) -> Tensor:
    """The sum over all anchors; see `afdcd.losses.contrast.forms.contrast`."""
    anchors, others = (patch_rows(x, setting) for x in (student, teacher.detach()))
    # The matrix product that cdist takes for many rows loses small distances by cancellation.
    distances = torch.cdist(anchors, others, NORM[setting.distance], "donot_use_mm_for_euclid_dist")
    logits = distances * (-1 / setting.temperature)
    positive = logits.diagonal(dim1=-2, dim2=-1)
    idle = excluded(0, setting.rows, setting, student.device)
    if idle is not None:
        logits = logits.masked_fill(idle, -torch.inf)
    return (logits.logsumexp(-1) - positive).sum()
