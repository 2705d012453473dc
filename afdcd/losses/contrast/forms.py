"""The contrast of two maps: pull student row i to teacher row i, push it from other teacher rows.

With D the distance of two rows and i an anchor, -log( e^{-D_ii/t} / sum_j e^{-D_ij/t} ), j over i and its
negatives in the patch, summed over all anchors. `dense` says it plainly; the other forms give the same value
and gradient up to rounding, faster and in less memory. Each gives the same bits each time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from afdcd.config import ContrastForm
from afdcd.errors import UserError
from afdcd.losses.contrast.chunked import chunked
from afdcd.losses.contrast.compiled import compiled
from afdcd.losses.contrast.dense import dense
from afdcd.losses.contrast.native import native
from afdcd.losses.contrast.rows import Setting
from afdcd.losses.inputs import full_precision
from afdcd.native.kernels import has_kernels

_log = logging.getLogger(__name__)


def contrast(student: Tensor, teacher: Tensor, setting: Setting, form: ContrastForm = "auto") -> Tensor:
    """The sum over all anchors, a scalar in float32 (float64 for float64), whatever autocast says.

    Args:
        student: (B, C, H, W), at least one patch.
        teacher: the same shape; it receives no gradient.
        setting: patch, groups, temperature, distance and negatives.
        form: how it is computed; "auto" follows `chosen`.

    Raises:
        UserError: the form cannot run here.
    """
    if form == "auto":
        form = chosen(student.device)
    _tell(form, student.device.type)
    with full_precision(student):
        return _function(form, student.device)(student, teacher, setting)


def chosen(device: torch.device) -> ContrastForm:
    """The form that "auto" stands for: the rule in one place.

    A GPU: "triton" where Triton is installed. A CPU: "native" where a C compiler is. Else "chunked".
    """
    if device.type == "cuda":
        return "triton" if find_spec("triton") else "chunked"
    return "native" if device.type == "cpu" and has_kernels() else "chunked"


def _function(form: ContrastForm, device: torch.device) -> Callable[[Tensor, Tensor, Setting], Tensor]:
    if form != "triton":
        return {"dense": dense, "chunked": chunked, "compiled": compiled, "native": native}[form]
    if find_spec("triton") is None:
        raise UserError("runtime.contrast: triton is not installed here; set it to auto")
    # Triton must not be imported before it is needed, and on a CPU its interpreter alone can run.
    from afdcd.losses.contrast.triton import INTERPRETED, triton_kernel

    if device.type != "cuda" and not INTERPRETED:
        raise UserError(f"runtime.contrast: triton needs a GPU, not {device.type}; set it to auto")
    return triton_kernel


@cache
def _tell(form: ContrastForm, device: str) -> None:
    _log.info("contrast: the form %s on %s", form, device)
