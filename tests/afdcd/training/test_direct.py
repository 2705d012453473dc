from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from afdcd.native.kernels import has_kernels
from afdcd.training.direct import direct_convolution

pytestmark = pytest.mark.skipif(not has_kernels(), reason="no C compiler is installed")

SIZES = [(1, 1), (3, 2), (7, 13), (12, 24)]
CHANNELS = [(1, 1), (3, 8), (8, 9), (13, 20), (6, 40), (21, 3)]


def drawn(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def with_gradients(features: Tensor, weight: Tensor, dilation: int, ours: bool) -> list[Tensor]:
    """The map made, and the slopes of both."""
    given = [each.detach().clone().requires_grad_() for each in (features, weight)]
    if ours:
        found = direct_convolution(*given, dilation)
    else:
        found = F.conv2d(*given, padding=dilation, dilation=dilation)
    found.backward(drawn(*found.shape, dtype=torch.float64).to(found.dtype))
    return [found, *(each.grad for each in given if each.grad is not None)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
@pytest.mark.parametrize("dilation", [1, 3, 9])
@pytest.mark.parametrize("size", SIZES)
def test_is_the_convolution_with_its_gradients(
    dtype: torch.dtype, tolerance: float, dilation: int, size: tuple[int, int]
) -> None:
    for channels, outputs in CHANNELS:
        features = drawn(3, channels, *size, dtype=dtype)
        weight = drawn(outputs, channels, 3, 3, dtype=dtype)
        for layout in (torch.contiguous_format, torch.channels_last):
            placed = features.contiguous(memory_format=layout), weight.contiguous(memory_format=layout)
            found = with_gradients(*placed, dilation, ours=True)
            wanted = with_gradients(features.double(), weight.double(), dilation, ours=False)
            assert len(found) == 3 and found[0].dtype == dtype
            assert found[0].is_contiguous(memory_format=torch.channels_last)
            for one, other in zip(found, wanted, strict=True):
                assert (one - other).norm() <= tolerance * other.norm()


def test_by_hand() -> None:
    """One row of three, a filter that counts its left, own and right cell as 1, 10 and 100."""
    features = torch.tensor([[[[1.0, 2.0, 3.0]]]], requires_grad=True)
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1] = torch.tensor([1.0, 10.0, 100.0])
    weight.requires_grad_()
    found = direct_convolution(features, weight)
    assert found.flatten().tolist() == [210.0, 321.0, 32.0]
    found.backward(torch.tensor([[[[1.0, 0.0, 0.0]]]]))
    assert features.grad is not None and features.grad.flatten().tolist() == [10.0, 100.0, 0.0]
    assert weight.grad is not None and weight.grad[0, 0, 1].tolist() == [0.0, 1.0, 2.0]
    assert not weight.grad[0, 0, [0, 2]].any()


def test_a_map_that_is_not_trained_gets_no_gradient() -> None:
    features = drawn(2, 8, 5, 7, dtype=torch.float32)
    weight = drawn(16, 8, 3, 3, dtype=torch.float32).requires_grad_()
    direct_convolution(features, weight).sum().backward()
    assert features.grad is None and weight.grad is not None


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_bits_do_not_depend_on_the_number_of_threads(batch: int) -> None:
    features = drawn(batch, 13, 9, 17, dtype=torch.float32)
    weight = drawn(24, 13, 3, 3, dtype=torch.float32)
    before, found = torch.get_num_threads(), []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        found.append(with_gradients(features, weight, 2, ours=True))
    torch.set_num_threads(before)
    assert all(a.equal(b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_what_is_no_number_reaches_its_neighbours_alone() -> None:
    features = drawn(2, 8, 9, 9, dtype=torch.float32)
    features[1, 3, 4, 4] = float("nan")
    found = direct_convolution(features, drawn(16, 8, 3, 3, dtype=torch.float32))
    spoilt = found.isnan()
    assert spoilt[1, :, 3:6, 3:6].all() and spoilt.sum() == 16 * 9


def test_second_derivatives_are_refused() -> None:
    features = drawn(1, 8, 4, 4, dtype=torch.float64).requires_grad_()
    found = direct_convolution(features, drawn(8, 8, 3, 3, dtype=torch.float64))
    (slopes,) = torch.autograd.grad(found.square().sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slopes.sum().backward()
