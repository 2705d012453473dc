"""The matrix product of the convolutions that are written out here."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from afdcd.native.kernels import call, prefers_product, step_of


def product(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right.mT`, without gradients.

    In float32 on a CPU torch's is MKL's, which on an AMD processor with AVX-512 runs at less than half the
    speed of oneDNN's, which Inductor calls for linear layers. With AVX2 alone a kernel in C is quicker there.

    Args:
        left: (N, K) or (B, N, K), any strides.
        right: (M, K) or (B, M, K), any strides.

    Returns:
        (N, M) or (B, N, M) in the same precision.
    """
    left, right = _plain(left), _plain(right)
    if left.is_cpu and left.dtype == torch.float32 and prefers_product():
        return native_product(left, right)
    if _suits_onednn(left) and left.numel() and right.numel():
        # Where both lie by columns it is faster, up to twice, with the longer one for its weight.
        turned = len(left) > len(right) and not (left.is_contiguous() or right.is_contiguous())
        first, second = (right, left) if turned else (left, right)
        found: Tensor = torch.ops.mkldnn._linear_pointwise(first, second, None, "none", [], "")
        return found.T if turned else found
    return left @ right.mT


def native_product(left: Tensor, right: Tensor) -> Tensor:
    """`product` in C, where there are kernels, in float32 or float64; no matrix has gaps in memory."""
    rows, inner, columns = *left.shape[-2:], right.shape[-2]
    found = left.new_empty(*left.shape[:-1], columns)
    sizes = left.shape[:-2].numel(), rows, columns, inner
    call("product", left, in_memory(left), in_memory(right), found, *sizes, *_strides(left), *_strides(right))
    return found


class Panels(NamedTuple):
    """The columns of a product as its kernel reads them.

    Attributes:
        numbers: (B, K * M'), where M' is M or somewhat more.
        columns: M.
    """

    numbers: Tensor
    columns: int


def panels(right: Tensor) -> Panels:
    """Columns (B, M, K), float32 or float64, of many products: such as a weight's that is trained no more."""
    right = _plain(right)
    batch, columns, inner = right.shape
    step = step_of(right)
    numbers = right.new_zeros(batch, inner * (-(-columns // step) * step))
    where = *_strides(right), numbers.stride(0)
    call("product_panels", right, in_memory(right), numbers, *right.shape, *where)
    return Panels(numbers, columns)


def product_of_panels(left: Tensor, right: Panels) -> Tensor:
    """(B, N, K), no matrix of which has gaps in memory, times columns (B, M, K) in `panels` -> (B, N, M)."""
    batch, rows, inner = left.shape
    found = left.new_empty(batch, rows, right.columns)
    sizes = batch, rows, right.columns, inner
    where = *_strides(left), right.numbers.stride(0), 0, 0
    call("product", left, in_memory(left), right.numbers, found, *sizes, *where)
    return found


def in_memory(matrices: Tensor) -> Tensor:
    """The numbers of (N, M) or (B, N, M) as one line: from the first to the last, and what lies between."""
    steps = zip(matrices.shape, matrices.stride(), strict=True)
    reach = sum((size - 1) * stride for size, stride in steps) + 1
    return matrices.as_strided((reach if matrices.numel() else 0,), (1,))


def differentiable_product(left: Tensor, right: Tensor) -> Tensor:
    """`product` of two matrices with gradients; second derivatives are refused."""
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
    known = operand.device.type == "cpu" and operand.dtype == torch.float32 and operand.ndim == 2
    return known and torch._C._has_mkldnn and bool(torch.backends.mkldnn.enabled)


def _plain(operand: Tensor) -> Tensor:
    """Matrices without gaps in memory: with them oneDNN takes code that is hundreds of times slower."""
    if _lies_by_rows(operand) or _lies_by_rows(operand.mT):
        return operand
    # A copy along the rows that memory has takes a tenth of the time of one across them.
    return operand.mT.contiguous().mT if operand.stride(-2) == 1 else operand.contiguous()


def _lies_by_rows(operand: Tensor) -> bool:
    """Whether each matrix does; there may be gaps between them."""
    return (operand if operand.ndim == 2 else operand[:1]).is_contiguous()


def _strides(operand: Tensor) -> tuple[int, int, int]:
    """From matrix to matrix, from row to row, from column to column."""
    rows, columns = operand.shape[-2:]
    return operand.stride(0), *((columns, 1) if _lies_by_rows(operand) else (1, rows))
