from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from afdcd.losses.gathered import gathered


def keep_mask(kind: str, size: tuple[int, int, int]) -> Tensor:
    if kind == "some":
        return torch.rand(size) < 0.3
    return torch.full(size, kind == "all")


@pytest.mark.parametrize("kind", ["some", "all", "none"])
@pytest.mark.parametrize("size", [(2, 5, 7), (1, 1, 1), (3, 1, 4), (1, 6, 2)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_is_the_convolution_of_the_masked_map(
    kind: str, size: tuple[int, int, int], dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(sum(size))
    keep = keep_mask(kind, size)
    features = torch.randn(*size, 6, dtype=dtype, requires_grad=True)
    offsets = torch.randn(9, 5, dtype=dtype, requires_grad=True)
    weight = torch.randn(5, 6, 3, 3, dtype=dtype, requires_grad=True)
    bias = torch.randn(5, dtype=dtype, requires_grad=True)
    found = gathered(features[keep], keep, weight.permute(2, 3, 0, 1).flatten(0, 1), offsets, bias)
    # The offsets are the weights of one more channel, which holds the mask.
    masked = torch.cat([features * keep[..., None], keep[..., None]], 3).permute(0, 3, 1, 2)
    wanted = F.conv2d(masked, torch.cat([weight, offsets.T.view(5, 1, 3, 3)], 1), bias, padding=1)
    slopes = torch.randn_like(wanted)
    leaves = (features, weight, offsets, bias)
    gradients = [torch.autograd.grad(x, leaves, slopes) for x in (found, wanted)]
    for one, other in zip((found, *gradients[0]), (wanted, *gradients[1]), strict=True):
        assert one.shape == other.shape
        assert (one - other).norm() <= tolerance * other.norm()


def test_half_types_are_added_up_wide() -> None:
    torch.manual_seed(0)
    rows, taps = torch.randn(64, 32), torch.randn(9, 16, 32)
    keep, bias = torch.ones(1, 8, 8, dtype=torch.bool), torch.zeros(16)
    narrow = [x.bfloat16() for x in (rows, taps, bias)]
    found = gathered(narrow[0], keep, narrow[1], None, narrow[2])
    wanted = gathered(narrow[0].double(), keep, narrow[1].double(), None, bias.double())
    assert found.dtype == torch.bfloat16
    assert (found.double() - wanted).norm() < 3e-3 * wanted.norm()


def test_same_bits_each_time() -> None:
    torch.manual_seed(0)
    keep = torch.rand(2, 6, 6) < 0.5
    rows, taps, bias = torch.randn(int(keep.sum()), 8), torch.randn(9, 8, 8), torch.randn(8)
    assert gathered(rows, keep, taps, None, bias).equal(gathered(rows, keep, taps, None, bias))
