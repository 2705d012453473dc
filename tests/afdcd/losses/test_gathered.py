from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from afdcd.losses import gathered as module
from afdcd.losses.gathered import gathered
from afdcd.native.kernels import has_kernels, loaded

needs_kernels = pytest.mark.skipif(not has_kernels(), reason=loaded().reason)


@pytest.fixture(
    params=[pytest.param(True, id="native", marks=needs_kernels), pytest.param(False, id="torch")]
)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of computing it."""
    monkeypatch.setattr(module, "has_kernels", lambda: request.param)


def keep_mask(kind: str, size: tuple[int, int, int]) -> Tensor:
    if kind == "some":
        return torch.rand(size) < 0.3
    return torch.full(size, kind == "all")


def plain(rows: Tensor, keep: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    """The convolution of the map that holds the rows, and a mask where the weight has a channel more."""
    if taps.shape[2] > rows.shape[1]:
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
    masked = rows.new_zeros(*keep.shape, taps.shape[2]).index_put((keep,), rows)
    weight = taps.permute(1, 2, 0).reshape(*taps.shape[1:], 3, 3)
    return F.conv2d(masked.permute(0, 3, 1, 2), weight, bias, padding=1)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", ["some", "all", "none"])
@pytest.mark.parametrize("size", [(2, 5, 7), (1, 1, 1), (3, 1, 4), (1, 6, 2)])
@pytest.mark.parametrize("channels", [(6, 5), (3, 37)])
@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_is_the_convolution_of_the_masked_map(
    kind: str,
    size: tuple[int, int, int],
    channels: tuple[int, int],
    more: int,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    torch.manual_seed(sum(size))
    keep, (inputs, outputs) = keep_mask(kind, size), channels
    rows = torch.randn(int(keep.sum()), inputs, dtype=dtype)
    # By place, as the generator's weights are: not in the order of memory.
    taps = torch.randn(outputs, 9, inputs + more, dtype=dtype).transpose(0, 1)
    leaves = [x.requires_grad_() for x in (rows, taps, torch.randn(outputs, dtype=dtype))]
    found, wanted = (form(leaves[0], keep, *leaves[1:]) for form in (gathered, plain))
    slopes = torch.randn_like(wanted)
    gradients = [torch.autograd.grad(x, leaves, slopes) for x in (found, wanted)]
    for one, other in zip((found, *gradients[0]), (wanted, *gradients[1]), strict=True):
        assert one.shape == other.shape
        assert (one - other).norm() <= tolerance * other.norm()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_added_up_wide(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rows, keep = torch.randn(64, 32).to(dtype), torch.ones(1, 8, 8, dtype=torch.bool)
    # A weight in float32 is rounded for its products, its last channel is not.
    taps, bias = torch.randn(9, 16, 33), torch.randn(16).to(dtype)
    taps[..., :-1] = taps[..., :-1].to(dtype)
    leaves = [x.requires_grad_() for x in (rows, taps, bias)]
    exact = [x.detach().double().requires_grad_() for x in leaves]
    found, wanted = gathered(rows, keep, taps, bias), plain(exact[0], keep, *exact[1:])
    slopes = torch.randn(wanted.shape).to(dtype)
    gradients = torch.autograd.grad(found, leaves, slopes)
    assert found.dtype == dtype and [x.dtype for x in gradients] == [x.dtype for x in leaves]
    pairs = zip(
        (found, *gradients), (wanted, *torch.autograd.grad(wanted, exact, slopes.double())), strict=True
    )
    for one, other in pairs:
        assert (one.double() - other).norm() < 3e-3 * other.norm()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_no_product_is_rounded_once(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rows, keep = torch.zeros(36, 2, dtype=dtype), torch.ones(1, 6, 6, dtype=torch.bool)
    taps, bias = torch.randn(9, 16, 3), torch.randn(16)
    wanted = plain(rows.float(), keep, taps, bias)
    assert gathered(rows, keep, taps, bias).equal(wanted.to(dtype))


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    keep, before = torch.rand(3, 6, 7) < 0.5, torch.get_num_threads()
    # Small whole numbers: whatever the order of products, they are exact.
    rows = torch.randint(-4, 5, (int(keep.sum()), 8)).to(dtype)
    taps, bias = torch.randint(-4, 5, (9, 40, 8)).float(), torch.randn(40)
    found = []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        leaves = [x.clone().requires_grad_() for x in (rows, taps)]
        value = gathered(leaves[0], keep, leaves[1], bias)
        found.append((value, *torch.autograd.grad(value, leaves, value.round().clamp(-8, 8))))
    torch.set_num_threads(before)
    for made in found[1:]:
        assert all(one.equal(other) for one, other in zip(made, found[0], strict=True))


@pytest.mark.usefixtures("way")
def test_same_bits_each_time() -> None:
    torch.manual_seed(0)
    keep = torch.rand(2, 6, 6) < 0.5
    rows, taps, bias = torch.randn(int(keep.sum()), 8), torch.randn(9, 8, 9), torch.randn(8)
    assert gathered(rows, keep, taps, bias).equal(gathered(rows, keep, taps, bias))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_number_reaches_its_neighbours_alone(dtype: torch.dtype) -> None:
    keep, rows = torch.ones(1, 5, 5, dtype=torch.bool), torch.ones(25, 2, dtype=dtype)
    rows[6, 0] = float("nan")
    spoilt = gathered(rows, keep, torch.ones(9, 3, 2), torch.zeros(3))[0].isnan()
    assert spoilt[:, :3, :3].all() and spoilt.sum() == 27


def test_large_products_are_made_tap_by_tap(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(left: Tensor, right: Tensor) -> Tensor:
        made.append(len(right))
        return left @ right.T

    monkeypatch.setattr(module, "product", counted)
    monkeypatch.setattr(module, "_AT_ONCE", 4 * 9 * 6 * (4 + 5) - 1)
    keep, taps, bias = torch.ones(1, 2, 2, dtype=torch.bool), torch.ones(9, 6, 5), torch.ones(6)
    gathered(torch.ones(4, 5), keep, taps, bias)
    assert made == 9 * [6]


def test_second_derivatives_are_refused() -> None:
    rows, keep = torch.ones(1, 2, requires_grad=True), torch.ones(1, 1, 1, dtype=torch.bool)
    found = gathered(rows, keep, torch.ones(9, 3, 2), torch.ones(3))
    (slope,) = torch.autograd.grad(found.square().sum(), rows, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()
