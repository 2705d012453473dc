from __future__ import annotations

import pytest
import torch

from afdcd.losses.product import differentiable_product, product


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)]
)
@pytest.mark.parametrize("sizes", [(5, 7, 3), (1, 1, 1), (0, 4, 3), (4, 0, 3), (4, 3, 0), (70, 33, 40)])
def test_is_the_matrix_product_whatever_the_memory(
    dtype: torch.dtype, tolerance: float, sizes: tuple[int, int, int]
) -> None:
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
