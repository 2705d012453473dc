from __future__ import annotations

import pytest
import torch

from afdcd.losses import product as module
from afdcd.losses.product import (
    differentiable_product,
    native_product,
    panels,
    product,
    product_of_panels,
)
from afdcd.native.kernels import has_kernels

needs_kernels = pytest.mark.skipif(not has_kernels(), reason="no C compiler is installed")


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)]
)
@pytest.mark.parametrize("sizes", [(5, 7, 3), (1, 1, 1), (0, 4, 3), (4, 0, 3), (4, 3, 0), (70, 33, 40)])
@pytest.mark.parametrize("native", [False, pytest.param(True, marks=needs_kernels)])
def test_is_the_matrix_product_whatever_the_memory(
    dtype: torch.dtype,
    tolerance: float,
    sizes: tuple[int, int, int],
    native: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "prefers_product", lambda: native)  # whichever this processor would take
    torch.manual_seed(0)
    rows, inner, columns = sizes
    left, right = torch.randn(rows, inner, dtype=dtype), torch.randn(columns, inner, dtype=dtype)
    wanted = left.double() @ right.double().T
    gaps = [torch.stack([x, x], 1)[:, 0] for x in (left, right)]
    turned = [x.T.contiguous().T for x in (left, right)]
    for one, other in ((left, right), gaps, turned, (left, turned[1])):
        found = product(one, other)
        assert found.dtype == dtype and found.shape == (rows, columns)
        assert (found - wanted).norm() <= tolerance * wanted.norm()


def test_gradients_are_those_of_the_matrix_product() -> None:
    torch.manual_seed(0)
    left, right = (torch.randn(n, 4, dtype=torch.float64, requires_grad=True) for n in (3, 5))
    assert torch.autograd.gradcheck(differentiable_product, (left, right))


def operands(*sizes: int, batch: int | None = None, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Rows, columns, length of the sum -> both operands."""
    rows, columns, inner = sizes
    draw = torch.Generator().manual_seed(sum(sizes))
    lead = () if batch is None else (batch,)
    return [torch.randn(*lead, each, inner, dtype=dtype, generator=draw) for each in (rows, columns)]


@needs_kernels
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 2e-6)])
@pytest.mark.parametrize("batch", [None, 1, 5])
@pytest.mark.parametrize(
    "sizes",
    [
        *[(1, 1, 1), (6, 16, 4), (7, 17, 3), (13, 9, 21), (5, 3, 0), (0, 3, 5), (3, 0, 5)],
        *[
            (96, 33, 255),
            (97, 512, 256),
            (30, 530, 257),
            (400, 30, 515),
        ],  # parts of all sizes, and their ends
    ],
)
def test_the_kernel_is_the_matrix_product_by_rows_and_by_columns(
    dtype: torch.dtype, tolerance: float, batch: int | None, sizes: tuple[int, int, int]
) -> None:
    left, right = operands(*sizes, batch=batch, dtype=dtype)
    wanted = left.double() @ right.double().mT
    turned = [x.mT.contiguous().mT for x in (left, right)]
    apart = [torch.stack([x, x], 1)[:, 0] for x in (left, right)] if batch else turned
    for one, other in ((left, right), turned, (left, turned[1]), (turned[0], right), apart):
        found = native_product(one, other)
        assert found.dtype == dtype and found.shape == wanted.shape
        assert (found - wanted).norm() <= tolerance * wanted.norm()


@needs_kernels
def test_bits_of_the_kernel_do_not_depend_on_the_number_of_threads_or_the_memory() -> None:
    left, right = operands(301, 530, 300, batch=2)
    before, found = torch.get_num_threads(), []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        found += [native_product(left, right), native_product(left, right.mT.contiguous().mT)]
    torch.set_num_threads(before)
    assert all(each.equal(found[0]) for each in found)


@needs_kernels
@pytest.mark.parametrize("strange", [float("nan"), float("inf")])
def test_what_is_no_number_spoils_its_row_and_no_other(strange: float) -> None:
    left, right = operands(31, 23, 5)
    left[29, 4] = strange
    found = native_product(left, right.abs())
    assert not found[29].isfinite().any() and found[29].isnan().all() == (strange != strange)
    assert found[:29].isfinite().all() and found[30:].isfinite().all()


@needs_kernels
@pytest.mark.parametrize("preferred", [False, True])
@pytest.mark.parametrize("batch", [None, 3])
def test_the_kernel_is_taken_where_it_is_the_faster_one(
    monkeypatch: pytest.MonkeyPatch, preferred: bool, batch: int | None
) -> None:
    left, right = operands(40, 50, 60, batch=batch)
    monkeypatch.setattr(module, "prefers_product", lambda: preferred)
    taken: list[str] = []
    monkeypatch.setattr(module, "call", lambda name, *_: taken.append(name))
    product(left, right)
    product(left.double(), right.double())
    product(left.bfloat16(), right.bfloat16())
    assert taken == ["product"] * preferred


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (7, 17, 3), (9, 600, 260), (13, 40, 515)])
def test_columns_in_panels_give_the_same_bits(dtype: torch.dtype, sizes: tuple[int, int, int]) -> None:
    left, right = operands(*sizes, batch=3, dtype=dtype)
    apart = torch.stack([left, left], 1)[:, 0]
    for columns in (right, right.mT.contiguous().mT):
        made = panels(columns)
        assert made.columns == sizes[1]
        for rows in (left, apart, left.mT.contiguous().mT):
            assert product_of_panels(rows, made).equal(native_product(left, right))
