from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from afdcd.native import kernels
from afdcd.training.dropout import NativeDropout, _dropped

pytestmark = [
    pytest.mark.skipif(not kernels.has_kernels(), reason=kernels.loaded().reason),
    pytest.mark.usefixtures("seeded"),
]

ROUNDING = {torch.float32: 1e-7, torch.float64: 1e-15, torch.bfloat16: 2**-8}


def fallen(seed: int, shape: tuple[int, ...] = (1 << 20,), p: float = 0.25) -> Tensor:
    """Where values of ones are dropped."""
    torch.manual_seed(seed)
    return NativeDropout(p)(torch.ones(shape)) == 0


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (4, 32, 6, 6), (1, 5, 1, 1)])
def test_values_and_slopes_fall_together_and_the_rest_grows(
    shape: tuple[int, ...], layout: torch.memory_format, dtype: torch.dtype
) -> None:
    x, slopes = (torch.randn(shape, dtype=dtype).contiguous(memory_format=layout) for _ in range(2))
    x.requires_grad_()
    y = NativeDropout(0.3)(x)
    # As it may come from another operator: in the other layout.
    y.backward(slopes.contiguous())
    kept = (y != 0).double()
    assert 0 < kept.mean() < 1 or x.numel() < 8
    assert y.stride() == x.stride() and "_Native" in type(y.grad_fn).__name__
    for found, given in ((y, x), (x.grad, slopes)):
        assert found is not None and found.dtype == dtype
        torch.testing.assert_close(
            found.double(), given.double() * kept / 0.7, rtol=ROUNDING[dtype], atol=0.0
        )


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_the_share_that_falls_is_p(p: float) -> None:
    count = 1 << 20
    deviation = math.sqrt(p * (1 - p) / count)
    for seed in range(4):
        assert abs(float(fallen(seed, p=p).double().mean()) - p) < 5 * deviation


@pytest.mark.parametrize("apart", [1, 2, 8, 16, 32, 1024, 1 << 16])
def test_places_fall_independently_of_each_other(apart: int) -> None:
    dropped = fallen(0).double()
    both = float((dropped[apart:] * dropped[:-apart]).mean())
    assert abs(both - 0.25**2) < 5 * math.sqrt(0.25**2 / len(dropped))


def test_calls_and_seeds_fall_independently_of_each_other() -> None:
    torch.manual_seed(1)
    drop, ones = NativeDropout(0.25), torch.ones(1 << 20)
    drawn = [drop(ones) == 0, drop(ones) == 0, fallen(2), fallen(3)]
    drawn += [_dropped(ones, seed, 1 << 30, 1.0) == 0 for seed in (0, 1, 1 << 32)]
    for index, one in enumerate(drawn):
        for other in drawn[:index]:
            both = float((one & other).double().mean())
            assert abs(both - 0.25**2) < 5 * math.sqrt(0.25**2 / len(one))


def test_a_seed_repeats_it_with_any_number_of_threads() -> None:
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(fallen(7, (100003,)))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_nan_stays() -> None:
    x = torch.full((1000,), math.nan)
    assert NativeDropout(0.5)(x).isnan().all()


@pytest.mark.parametrize(
    ("drop", "x"),
    [
        (NativeDropout(0.0), torch.ones(50)),
        (NativeDropout(1.0), torch.ones(50)),
        (NativeDropout(0.5, inplace=True), torch.ones(50)),
        (NativeDropout(0.5).eval(), torch.ones(50)),
        (NativeDropout(0.5), torch.ones(50, dtype=torch.float16)),
        (NativeDropout(0.5), torch.ones(50, 2)[:, 0]),
    ],
)
def test_all_else_is_torchs(drop: NativeDropout, x: Tensor) -> None:
    plain = nn.Dropout(drop.p, drop.inplace).train(drop.training)
    found = []
    for module in (drop, plain):
        torch.manual_seed(3)
        found.append(module(x.clone() if drop.inplace else x))
    assert torch.equal(found[0], found[1])
