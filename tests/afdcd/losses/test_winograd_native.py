from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from afdcd.losses.winograd_native import cheapest_side, native_winograd, taken, work
from afdcd.native.kernels import call, has_kernels

pytestmark = pytest.mark.skipif(not has_kernels(), reason="no C compiler is installed")

SIDES = {
    2: {
        "inputs": [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]],
        "slopes": [[1, 0], [1, 1], [1, -1], [0, 1]],
        "filters": [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
    },
    3: {
        "inputs": [
            [2, -1, -2, 1, 0],
            [0, -2, -1, 1, 0],
            [0, 2, -3, 1, 0],
            [0, -1, 0, 1, 0],
            [0, 2, -1, -2, 1],
        ],
        "slopes": [[1, 0, 0], [1, 1, 1], [1, -1, 1], [1, 2, 4], [0, 0, 1]],
        "filters": [
            *([1 / 2, 0, 0], [-1 / 2, -1 / 2, -1 / 2], [-1 / 6, 1 / 6, -1 / 6], [1 / 6, 1 / 3, 2 / 3]),
            [0, 0, 1],
        ],
    },
    4: {
        "inputs": [
            *([4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0]),
            *([0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]),
        ],
        "slopes": [[1, 0, 0, 0], [1, 1, 1, 1], [1, -1, 1, -1], [1, 2, 4, 8], [1, -2, 4, -8], [0, 0, 0, 1]],
        "filters": [
            *([1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6]),
            *([1 / 24, -1 / 12, 1 / 6], [0, 0, 1]),
        ],
    },
}
"""What each transform does along an axis, as a matrix, by the outputs of a tile."""
FORMS = [(torch.float64, 2), (torch.float64, 3), (torch.float64, 4)]
FORMS += [(torch.float32, 2), (torch.float32, 3), (torch.float32, 4), (torch.bfloat16, 2)]
EXACT = {
    **{(torch.float64, 2): 1e-14, (torch.float64, 3): 2e-14, (torch.float64, 4): 4e-14},
    **{(torch.float32, 2): 1e-6, (torch.float32, 3): 4e-6, (torch.float32, 4): 8e-6},
}
"""The largest error, in parts of the norm."""


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


def errors(
    shape: tuple[int, int, int, int],
    outputs: int,
    dtype: torch.dtype,
    *,
    last: bool = True,
    dilation: int = 1,
    side: int | None = None,
) -> list[float]:
    """Of value, input, weight and bias gradient against float64, in parts of their norms."""
    memory = torch.channels_last if last else torch.contiguous_format
    some = leaves(shape, outputs, dtype, memory)
    exact = [x.detach().double().requires_grad_() for x in some]
    found = native_winograd(*some, dilation, side)
    wanted = F.conv2d(*exact, padding=dilation, dilation=dilation)
    assert found.shape == wanted.shape and found.dtype == dtype
    slopes = torch.randn(wanted.shape).to(dtype).contiguous(memory_format=memory)
    gradients = torch.autograd.grad(found, some, slopes)
    assert [x.dtype for x in gradients] == [x.dtype for x in some]
    pairs = zip(
        (found, *gradients), (wanted, *torch.autograd.grad(wanted, exact, slopes.double())), strict=True
    )
    return [float(((one - other).norm() / other.norm()).detach()) for one, other in pairs]


@pytest.mark.parametrize("size", [(1, 1), (2, 6), (5, 7), (8, 4), (9, 13)])
@pytest.mark.parametrize("channels", [(1, 1), (16, 37), (40, 32)])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("dtype", "side"), EXACT)
def test_is_the_convolution_with_all_gradients(
    size: tuple[int, int], channels: tuple[int, int], last: bool, dtype: torch.dtype, side: int
) -> None:
    found = errors((2, channels[0], *size), channels[1], dtype, last=last, side=side)
    assert max(found) <= EXACT[dtype, side]


@pytest.mark.parametrize("size", [(3, 6), (7, 12), (13, 9)])
@pytest.mark.parametrize("dilation", [2, 3, 8])
@pytest.mark.parametrize("side", [None, *SIDES])
def test_with_a_dilation_each_grid_is_by_itself(
    size: tuple[int, int], dilation: int, side: int | None
) -> None:
    found = errors((2, 5, *size), 6, torch.float64, dilation=dilation, side=side)
    assert max(found) <= EXACT[torch.float64, 4]


@pytest.mark.parametrize(
    ("size", "dilation", "dtype", "rows", "side"),
    [
        ((12, 24), 1, torch.float32, 0, 4),
        ((12, 24), 2, torch.float32, 0, 3),  # grids of 6x12: 4 would reach over their lower border
        ((12, 24), 4, torch.float32, 0, 3),  # grids of 3x6
        ((16, 32), 4, torch.float32, 0, 4),
        ((16, 32), 8, torch.float32, 0, 2),
        ((12, 24), 1, torch.bfloat16, 0, 2),
        ((12, 24), 1, torch.float64, 1000, 2),
    ],
)
def test_the_tile_is_what_takes_the_least_work(
    size: tuple[int, int], dilation: int, dtype: torch.dtype, rows: int, side: int
) -> None:
    features = torch.empty(2, 3, *size, dtype=dtype)
    assert cheapest_side(features, rows, dilation) == side
    tiles = taken(features, side, dilation).shape[1]
    assert work(features, side, rows, dilation) == (side + 2) ** 2 * (tiles + rows)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (12, 24)])
@pytest.mark.parametrize("channels", [(40, 32), (64, 64)])
def test_bf16_errs_by_less_than_four_of_its_roundings(
    size: tuple[int, int], channels: tuple[int, int]
) -> None:
    value, to_features, to_weight, to_bias = errors((2, channels[0], *size), channels[1], torch.bfloat16)
    one = 2**-9  # the largest error of a rounding; the convolution's own errors are 1.2 of it, and 0.9
    assert max(value, to_features, to_weight) < 4 * one
    assert to_bias < 1e-6, "sums of slopes are made, and stay, in float32"


@pytest.mark.parametrize(("dtype", "side"), FORMS)
@pytest.mark.parametrize(("name", "size"), [("inputs", (8, 4)), ("inputs", (5, 7)), ("slopes", (5, 7))])
def test_a_map_is_transformed_without_error_but_roundings(
    name: str, size: tuple[int, int], dtype: torch.dtype, side: int, threads: int
) -> None:
    torch.manual_seed(0)
    rows, apart = torch.randn(3, *size, 37).to(dtype), 1500
    ends = [-(-length // side) * side - length for length in size]
    border = 1 if name == "inputs" else 0
    padded = F.pad(rows.double(), (0, 0, border, border + ends[1], border, border + ends[0]))
    matrix = torch.tensor(SIDES[side][name], dtype=torch.float64)
    reach = matrix.shape[1]
    tiles = padded.unfold(1, reach, side).unfold(2, reach, side)
    wanted = torch.einsum("ir,js,byxcrs->ijbyxc", matrix, matrix, tiles).reshape(len(matrix) ** 2, -1)
    found = rows.new_full((len(wanted), apart), 7)
    call(f"winograd{side}_{name}", rows, rows, found, *rows.shape, 1, apart)
    assert (found[:, wanted.shape[1] :] == 7).all(), "what lies between planes is nobody's"
    if dtype == torch.bfloat16:
        assert found[:, : wanted.shape[1]].equal(wanted.to(dtype))
    else:
        torch.testing.assert_close(found[:, : wanted.shape[1]], wanted.to(dtype))


@pytest.mark.parametrize(("dtype", "side"), FORMS)
def test_filters_and_their_transpose(dtype: torch.dtype, side: int, threads: int) -> None:
    torch.manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    matrix, taps = (
        torch.tensor(SIDES[side]["filters"], dtype=torch.float64),
        torch.randn(5, 3, 3, 37, dtype=wide),
    )
    count = len(matrix) ** 2
    found, slopes = torch.empty(count, 5, 37, dtype=dtype), torch.randn(count, 5, 37).to(dtype)
    call(f"winograd{side}_filters", found, taps, found, 5, 37, 5 * 37)
    wanted = torch.einsum("ir,js,orsc->ijoc", matrix, matrix, taps.double()).reshape(count, 5, 37)
    assert (found - wanted).norm() <= 2 * torch.finfo(dtype).eps * wanted.norm()
    back = torch.empty_like(taps)
    call(f"winograd{side}_to_weight", slopes, slopes, back, 5, 37, 5 * 37)
    scale = found.double().flatten().norm() * slopes.double().flatten().norm()
    apart = (found.double() * slopes.double()).sum() - (taps.double() * back.double()).sum()
    assert apart.abs() <= torch.finfo(dtype).eps * scale


@pytest.mark.parametrize(("dtype", "side"), FORMS)
def test_bits_do_not_depend_on_the_number_of_threads(dtype: torch.dtype, side: int) -> None:
    before = torch.get_num_threads()
    found: list[list[Tensor]] = []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        some = leaves((3, 20, 5, 7), 18, dtype, torch.channels_last)
        value = native_winograd(*some, 2, side)
        found.append([value, *torch.autograd.grad(value.float().square().sum(), some)])
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


@pytest.mark.parametrize("side", SIDES)
def test_gradients_are_those_of_differences(side: int) -> None:
    some = leaves((1, 3, 3, 4), 2, torch.float64, torch.contiguous_format)
    assert torch.autograd.gradcheck(lambda *given: native_winograd(*given, 1, side), some)


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
