"""The matrix product of the convolutions that are written out here."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def product(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right.T`, without gradients.

    In float32 on a CPU it is oneDNN's, which Inductor calls for linear layers: torch.mm is MKL's, and on AMD
    processors that runs at less than half the speed.

    Args:
        left: (N, K), any strides.
        right: (M, K), any strides.

    Returns:
        (N, M) in the same precision.
    """
    left, right = _plain(left), _plain(right)
    if _suits_onednn(left) and left.numel() and right.numel():
        # Where both lie by columns it is faster, up to twice, with the longer one for its weight.
        turned = len(left) > len(right) and not (left.is_contiguous() or right.is_contiguous())
        first, second = (right, left) if turned else (left, right)
        found: Tensor = torch.ops.mkldnn._linear_pointwise(first, second, None, "none", [], "")
        return found.T if turned else found
    return left @ right.T


def differentiable_product(left: Tensor, right: Tensor) -> Tensor:
    """`product` with gradients; second derivatives are refused."""
    found: Tensor = _Product.apply(left, right)
    return found


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(left, right)
        return product(left, right)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        left, right = ctx.saved_tensors
        return product(upstream, right.T), product(upstream.T, left.T)


def _suits_onednn(operand: Tensor) -> bool:
    """Whether oneDNN's product takes it, in a build of torch that has one."""
    known = operand.device.type == "cpu" and operand.dtype == torch.float32
    return known and torch._C._has_mkldnn and bool(torch.backends.mkldnn.enabled)


def _plain(operand: Tensor) -> Tensor:
    """The operand without gaps in memory: with them oneDNN takes code that is hundreds of times slower."""
    if operand.is_contiguous() or operand.T.is_contiguous():
        return operand
    # A copy along the rows that memory has takes a tenth of the time of one across them.
    return operand.T.contiguous().T if operand.stride(0) == 1 else operand.contiguous()
