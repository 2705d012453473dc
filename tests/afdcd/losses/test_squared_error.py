from __future__ import annotations

import pytest
import torch
from torch import Tensor

from afdcd.losses import squared_error as module
from afdcd.losses.squared_error import squared_error
from afdcd.native.kernels import has_kernels, loaded

LAST, FIRST = torch.channels_last, torch.contiguous_format
needs_kernels = pytest.mark.skipif(not has_kernels(), reason=loaded().reason)


@pytest.fixture(
    params=[pytest.param(True, id="native", marks=needs_kernels), pytest.param(False, id="torch")]
)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of computing it."""
    monkeypatch.setattr(module, "has_kernels", lambda: request.param)


def maps(
    shape: tuple[int, ...], dtype: torch.dtype, memory: tuple[torch.memory_format, torch.memory_format]
) -> tuple[Tensor, Tensor]:
    torch.manual_seed(sum(shape))
    first, second = (torch.randn(shape).to(dtype).contiguous(memory_format=each) for each in memory)
    return first.requires_grad_(), second


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 7), (3, 17, 4, 9), (2, 40, 30, 11)])
@pytest.mark.parametrize("memory", [(FIRST, FIRST), (LAST, LAST), (LAST, FIRST)])
@pytest.mark.parametrize(
    ("dtype", "tolerance", "rounding"),
    [
        (torch.float64, 1e-14, 1e-15),
        (torch.float32, 1e-6, 3e-7),
        (torch.bfloat16, 1e-6, 2**-8),
        (torch.float16, 1e-6, 2**-10),
    ],
)
def test_is_the_sum_of_squares_with_its_gradient(
    shape: tuple[int, ...],
    memory: tuple[torch.memory_format, torch.memory_format],
    dtype: torch.dtype,
    tolerance: float,
    rounding: float,
) -> None:
    first, second = maps(shape, dtype, memory)
    found = squared_error(first, second)
    (slopes,) = torch.autograd.grad(found / 7, first)
    apart = first.detach().double() - second.double()
    wanted = apart.square().sum()
    assert found.shape == () and (found - wanted).abs() <= tolerance * wanted
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert slopes.dtype == dtype
    assert ((slopes.double() - apart * 2 / 7).abs() <= rounding * (apart * 2 / 7).abs()).all()


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    before, found = torch.get_num_threads(), []
    first, second = maps((2, 40, 30, 31), dtype, (LAST, LAST))
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        value = squared_error(first, second)
        found.append((value, *torch.autograd.grad(value, first)))
    torch.set_num_threads(before)
    assert all(one.equal(other) for made in found[1:] for one, other in zip(made, found[0], strict=True))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_number_or_infinite_stays_so(dtype: torch.dtype) -> None:
    for bad in (float("nan"), float("inf")):
        first, second = maps((1, 2, 3, 4), dtype, (FIRST, FIRST))
        second[0, 1, 2, 3] = bad
        value = squared_error(first, second)
        (slopes,) = torch.autograd.grad(value, first)
        assert not value.isfinite() and (~slopes.isfinite()).nonzero().tolist() == [[0, 1, 2, 3]]


@needs_kernels
def test_kernels_take_maps_that_are_alike_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    plain = module.call
    monkeypatch.setattr(module, "call", lambda name, *rest: (taken.append(name), plain(name, *rest)))
    first, second = maps((2, 3, 4, 5), torch.bfloat16, (LAST, LAST))
    gaps = first[..., ::2], second[..., ::2]
    for pair in ((first, second.contiguous()), (first, second.float()), gaps, (first.half(), second.half())):
        squared_error(*pair)
    assert taken == []
    squared_error(first, second).backward()
    assert taken == ["squared_error", "squared_error_slopes"]


@pytest.mark.usefixtures("way")
def test_nothing_reaches_the_second() -> None:
    first, second = maps((1, 2, 3, 4), torch.float32, (FIRST, FIRST))
    squared_error(first, second.requires_grad_()).backward()
    assert second.grad is None and first.grad is not None
