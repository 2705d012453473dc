from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from afdcd.losses.winograd import winograd


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 6), (5, 7), (6, 5), (8, 4)])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 3e-6)])
def test_is_the_convolution_with_all_gradients(
    size: tuple[int, int], channels_last: bool, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(sum(size))
    memory = torch.channels_last if channels_last else torch.contiguous_format
    features = torch.randn(2, 6, *size, dtype=dtype).contiguous(memory_format=memory).requires_grad_()
    weight = torch.randn(5, 6, 3, 3, dtype=dtype).contiguous(memory_format=memory).requires_grad_()
    bias = torch.randn(5, dtype=dtype, requires_grad=True)
    found, wanted = winograd(features, weight, bias), F.conv2d(features, weight, bias, padding=1)
    assert found.shape == wanted.shape
    slopes = torch.randn_like(wanted)
    gradients = [torch.autograd.grad(x, (features, weight, bias), slopes) for x in (found, wanted)]
    for one, other in zip((found, *gradients[0]), (wanted, *gradients[1]), strict=True):
        assert (one - other).norm() <= tolerance * other.norm()


def test_second_derivatives_are_refused() -> None:
    features = torch.randn(1, 2, 4, 4, requires_grad=True)
    found = winograd(features, torch.randn(2, 2, 3, 3), torch.zeros(2))
    (slope,) = torch.autograd.grad(found.square().sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()
