from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from afdcd.losses.winograd_native import native_winograd
from afdcd.native.kernels import call, has_kernels

pytestmark = pytest.mark.skipif(not has_kernels(), reason="no C compiler is installed")

SIDES = {
    "inputs": [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]],
    "slopes": [[1, 0], [1, 1], [1, -1], [0, 1]],
    "filters": [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]],
}
"""What each transform does along an axis, as a matrix."""


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def leaves(
    shape: tuple[int, int, int, int], outputs: int, dtype: torch.dtype, memory: torch.memory_format
) -> list[Tensor]:
    """A map as a ReLU leaves it, a weight as it is initialised, and a bias; with gradients."""
    torch.manual_seed(sum(shape))
    wide = torch.float32 if dtype == torch.bfloat16 else dtype
    features = torch.randn(shape).relu().to(dtype)
    weight = torch.randn(outputs, shape[1], 3, 3, dtype=wide) * (2 / (9 * shape[1])) ** 0.5
    some = [x.contiguous(memory_format=memory) for x in (features, weight)]
    return [x.requires_grad_() for x in (*some, torch.randn(outputs, dtype=wide))]


def errors(shape: tuple[int, int, int, int], outputs: int, dtype: torch.dtype, last: bool) -> list[float]:
    """Of value, input, weight and bias gradient against float64, in parts of their norms."""
    memory = torch.channels_last if last else torch.contiguous_format
    some = leaves(shape, outputs, dtype, memory)
    exact = [x.detach().double().requires_grad_() for x in some]
    found, wanted = native_winograd(*some), F.conv2d(*exact, padding=1)
    assert found.shape == wanted.shape and found.dtype == dtype
    slopes = torch.randn(wanted.shape).to(dtype).contiguous(memory_format=memory)
    gradients = torch.autograd.grad(found, some, slopes)
    assert [x.dtype for x in gradients] == [x.dtype for x in some]
    pairs = zip(
        (found, *gradients), (wanted, *torch.autograd.grad(wanted, exact, slopes.double())), strict=True
    )
    return [float(((one - other).norm() / other.norm()).detach()) for one, other in pairs]


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 6), (5, 7), (6, 5), (8, 4)])
@pytest.mark.parametrize("channels", [(1, 1), (6, 5), (16, 37), (40, 32)])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 3e-6)])
def test_is_the_convolution_with_all_gradients(
    size: tuple[int, int], channels: tuple[int, int], last: bool, dtype: torch.dtype, tolerance: float
) -> None:
    inputs, outputs = channels
    assert max(errors((2, inputs, *size), outputs, dtype, last)) <= tolerance


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (12, 24)])
@pytest.mark.parametrize("channels", [(40, 32), (64, 64)])
def test_bf16_errs_by_less_than_four_of_its_roundings(
    size: tuple[int, int], channels: tuple[int, int]
) -> None:
    value, to_features, to_weight, to_bias = errors(
        (2, channels[0], *size), channels[1], torch.bfloat16, True
    )
    one = 2**-9  # the largest error of a rounding; the convolution's own errors are 1.2 of it, and 0.9
    assert max(value, to_features, to_weight) < 4 * one
    assert to_bias < 1e-6, "sums of slopes are made, and stay, in float32"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "sizes"), [("inputs", (6, 4)), ("inputs", (5, 7)), ("slopes", (5, 7))])
def test_a_map_is_transformed_without_error_but_one_rounding(
    name: str, sizes: tuple[int, int], dtype: torch.dtype, threads: int
) -> None:
    torch.manual_seed(0)
    rows = torch.randn(3, *sizes, 37).to(dtype)
    down, across = ((size + 1) // 2 for size in sizes)
    border = 1 if name == "inputs" else 0
    padded = F.pad(
        rows.double(),
        (0, 0, border, 2 * across + border - sizes[1], border, 2 * down + border - sizes[0]),
    )
    side = torch.tensor(SIDES[name]).double()
    reach = side.shape[1]
    tiles = padded.unfold(1, reach, 2).unfold(2, reach, 2)
    wanted = torch.einsum("ir,js,byxcrs->ijbyxc", side, side, tiles).reshape(16, -1, 37)
    found = rows.new_empty(wanted.shape)
    call(f"winograd_{name}", rows, rows, found, *rows.shape)
    if dtype == torch.bfloat16:
        assert found.equal(wanted.to(dtype))
    else:
        torch.testing.assert_close(found, wanted.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_filters_and_their_transpose(dtype: torch.dtype, threads: int) -> None:
    torch.manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    side, taps = torch.tensor(SIDES["filters"]), torch.randn(5, 3, 3, 37, dtype=wide)
    found, slopes = torch.empty(16, 5, 37, dtype=dtype), torch.randn(16, 5, 37).to(dtype)
    call("winograd_filters", found, taps, found, 5, 37)
    wanted = torch.einsum("ir,js,orsc->ijoc", side.double(), side.double(), taps.double()).reshape(16, 5, 37)
    assert (found - wanted).norm() <= torch.finfo(dtype).eps * wanted.norm()
    back = torch.empty_like(taps)
    call("winograd_to_weight", slopes, slopes, back, 5, 37)
    scale = found.double().flatten().norm() * slopes.double().flatten().norm()
    apart = (found.double() * slopes.double()).sum() - (taps.double() * back.double()).sum()
    assert apart.abs() <= torch.finfo(dtype).eps * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rows, products = torch.randn(3, 5, 7, 20).to(dtype), torch.randn(16, 36, 20).to(dtype)
    bias, before = torch.randn(20), torch.get_num_threads()
    found: list[list[Tensor]] = []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        made = [torch.empty_like(x) for x in (products, rows, products, rows)]
        call("winograd_inputs", rows, rows, made[0], *rows.shape)
        call("winograd_outputs", rows, products, bias, made[1], *rows.shape)
        call("winograd_slopes", rows, rows, made[2], *rows.shape)
        call("winograd_to_inputs", rows, products, made[3], *rows.shape)
        found.append(made)
    torch.set_num_threads(before)
    assert all(one.equal(other) for made in found[1:] for one, other in zip(made, found[0], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_number_or_infinite_stays_so(dtype: torch.dtype) -> None:
    features, weight, bias = leaves((1, 3, 6, 6), 2, dtype, torch.channels_last)
    largest = torch.tensor([0x7FFF], dtype=torch.int16).view(torch.bfloat16)  # a NaN of ones alone
    spoilt = features.detach().clone()
    spoilt[0, 0, 2, 2] = largest[0].to(dtype)
    assert native_winograd(spoilt, weight, bias)[..., 2:4, 2:4].isnan().all()
    slopes = torch.zeros(1, 2, 6, 6, dtype=dtype)
    slopes[0, 1, 3, 3] = float("nan")
    gradients = torch.autograd.grad(native_winograd(features, weight, bias), (features, weight, bias), slopes)
    assert gradients[0][..., 2:5, 2:5].isnan().all()
    assert gradients[1][1].isnan().all() and gradients[2][1].isnan()


def test_gradients_are_those_of_differences() -> None:
    some = leaves((1, 3, 3, 4), 2, torch.float64, torch.contiguous_format)
    assert torch.autograd.gradcheck(native_winograd, some)


def test_second_derivatives_are_refused() -> None:
    features, weight, bias = leaves((1, 2, 4, 4), 2, torch.float32, torch.contiguous_format)
    found = native_winograd(features, weight, bias)
    (slope,) = torch.autograd.grad(found.square().sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_autocast_and_other_types_of_weights_change_nothing() -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(1, 5, 4, 6, generator=draw, requires_grad=True)
    weight, bias = torch.randn(7, 5, 3, 3, generator=draw), torch.randn(7, generator=draw)
    plain = native_winograd(features, weight, bias)
    with torch.autocast("cpu", torch.bfloat16):
        under = native_winograd(features, weight.double(), bias.double())
    assert under.dtype == torch.float32 and under.equal(plain)
