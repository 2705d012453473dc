from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from afdcd.native import kernels
from afdcd.training.batch_norm import (
    FEW_CHANNELS,
    NativeBatchNorm2d,
    RectifyingBatchNorm2d,
)
from afdcd.training.native_modules import native_modules

pytestmark = [
    pytest.mark.skipif(not kernels.has_kernels(), reason=kernels.loaded().reason),
    pytest.mark.usefixtures("seeded"),
]

ROUNDING = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 1e-2}
CHANNELS = [1, 3, 8, 24, 64, 100]
SHAPES = [(2, 5, 7), (3, 40, 41), (8, 1, 1)]
FORMS = [NativeBatchNorm2d, RectifyingBatchNorm2d]


class Passed(NamedTuple):
    """What one pass in training gives: all in float64."""

    y: Tensor
    by_x: Tensor
    by_weight: Tensor
    by_bias: Tensor
    mean: Tensor
    variance: Tensor


def normed(channels: int, dtype: torch.dtype, **options: Any) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, **options, dtype=torch.float64 if dtype == torch.float64 else None)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        if tensor is not None:
            tensor.data.uniform_(0.5, 2)
    return norm


def maps(shape: tuple[int, ...], channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """An input far from 0 and slopes, both channels-last."""
    batch, *sides = shape
    x, slopes = torch.randn(2, batch, channels, *sides, dtype=torch.float64)
    x = 3 * x + torch.linspace(-20, 20, channels, dtype=torch.float64)[:, None, None]
    return tuple(t.to(dtype).contiguous(memory_format=torch.channels_last) for t in (x, slopes))  # type: ignore[return-value]


def passed(
    norm: nn.BatchNorm2d, x: Tensor, slopes: Tensor, form: type[nn.BatchNorm2d] = NativeBatchNorm2d
) -> Passed:
    norm, x = copy.deepcopy(norm), x.detach().requires_grad_()
    norm.__class__ = form
    y = norm(x)
    y.backward(slopes)
    assert y.dtype == x.dtype and y.is_contiguous(memory_format=torch.channels_last)
    assert norm.num_batches_tracked == 1
    assert ("_Native" in type(y.grad_fn).__name__) == (form in FORMS)
    return Passed(
        *(
            t.detach().double()  # type: ignore[union-attr]
            for t in (y, x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var)
        )
    )


def naive(norm: nn.BatchNorm2d, x: Tensor, slopes: Tensor) -> Passed:
    """Written down channel by channel."""
    x, slopes = x.double(), slopes.double()
    y, by_x = torch.empty_like(x), torch.empty_like(x)
    by_weight, by_bias, mean, variance = (norm.running_mean.double() for _ in range(4))  # type: ignore[union-attr]
    by_weight, by_bias, mean, variance = (t.clone() for t in (by_weight, by_bias, mean, variance))
    for c in range(x.shape[1]):
        values, slope, weight = x[:, c], slopes[:, c], norm.weight[c].item()
        count, apart = values.numel(), values - values.mean()
        squares = float((apart**2).sum())
        deviation = (squares / count + norm.eps) ** 0.5
        unit = apart / deviation
        y[:, c] = unit * weight + norm.bias[c].item()
        by_weight[c], by_bias[c] = (slope * unit).sum(), slope.sum()
        by_x[:, c] = (slope - slope.mean() - unit * (slope * unit).mean()) * weight / deviation
        mean[c] += norm.momentum * (values.mean() - mean[c])
        old = float(norm.running_var[c])  # type: ignore[index]
        variance[c] = old + norm.momentum * (squares / (count - 1) - old)  # type: ignore[operator]
    return Passed(y, by_x, by_weight, by_bias, mean, variance)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_gradients_and_statistics(shape: tuple[int, ...], channels: int, dtype: torch.dtype) -> None:
    norm, (x, slopes) = normed(channels, dtype), maps(shape, channels, dtype)
    found, wanted = passed(norm, x, slopes), naive(norm, x, slopes)
    plain = passed(norm, x, slopes, nn.BatchNorm2d)
    for ours, true, torchs in zip(found, wanted, plain, strict=True):
        scale = float(true.abs().max())
        assert (ours - true).abs().max() <= ROUNDING[dtype] * scale
        # As near as torch's, but for a few roundings.
        assert (ours - true).abs().max() <= 2 * (torchs - true).abs().max() + 5e-6 * scale


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_with_the_relu_after_it(shape: tuple[int, ...], channels: int, dtype: torch.dtype) -> None:
    norm, (x, slopes) = normed(channels, dtype), maps(shape, channels, dtype)
    norm.bias.data -= 1.5
    found = passed(norm, x, slopes, RectifyingBatchNorm2d)
    assert 0 < (found.y == 0).double().mean() < 1
    wanted = naive(norm, x, slopes.double().where(found.y > 0, 0))
    for ours, true in zip(found, wanted._replace(y=wanted.y.clamp_min(0)), strict=True):
        assert (ours - true).abs().max() <= ROUNDING[dtype] * true.abs().max()


def test_a_mean_far_above_the_deviation_costs_few_digits() -> None:
    x, slopes = maps((4, 50, 60), 8, torch.float32)
    x = (x * 1e-2 + 1000).contiguous(memory_format=torch.channels_last)
    norm = normed(8, torch.float32)
    for found, wanted in zip(passed(norm, x, slopes), naive(norm, x, slopes), strict=True):
        assert (found - wanted).abs().max() <= 1e-3 * wanted.abs().max()


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("channels", [8, 24])
@pytest.mark.parametrize("form", FORMS)
def test_bits_do_not_depend_on_threads(form: type[nn.BatchNorm2d], channels: int, dtype: torch.dtype) -> None:
    norm, (x, slopes) = normed(channels, dtype), maps((3, 60, 61), channels, dtype)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(passed(norm, x, slopes, form))
    for one, other in zip(results[:1] * 2, results[1:], strict=True):
        assert all(a.equal(b) for a, b in zip(one, other, strict=True))


def test_bfloat16_rounds_to_the_nearest_even() -> None:
    x, slopes = maps((2, 30, 31), 3, torch.bfloat16)
    norm = normed(3, torch.bfloat16)
    exact = passed(norm, x.float(), slopes.float())
    found = passed(norm, x, slopes)
    assert found.y.equal(exact.y.float().bfloat16().double())
    assert found.by_x.equal(exact.by_x.float().bfloat16().double())


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("pixel", [0, -1])
@pytest.mark.parametrize("form", FORMS)
def test_no_number_stays_none_and_in_its_channel(
    form: type[nn.BatchNorm2d], pixel: int, value: float, dtype: torch.dtype
) -> None:
    x, slopes = maps((2, 31, 33), 3, dtype)
    x[pixel, 1, pixel, pixel] = value
    for found in passed(normed(3, dtype), x, slopes, form)[:3]:
        channels = found if found.dim() == 1 else found.movedim(1, 0).flatten(1)
        spoilt = channels.isfinite().logical_not()
        assert spoilt[1].all() and not spoilt[0].any() and not spoilt[2].any()


def test_gradients_of_another_layout() -> None:
    norm, (x, slopes) = normed(8, torch.float32), maps((2, 9, 10), 8, torch.float32)
    one, other = passed(norm, x, slopes), passed(norm, x, slopes.contiguous())
    assert all(a.equal(b) for a, b in zip(one, other, strict=True))


def test_under_autocast() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    with native_modules(network), torch.autocast("cpu", torch.bfloat16):
        y = network(x)
        assert y.dtype == torch.bfloat16 and "_Native" in type(y.grad_fn).__name__
        y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())


def test_a_second_derivative_is_refused() -> None:
    norm, (x, _) = normed(8, torch.float64), maps((2, 9, 10), 8, torch.float64)
    norm.__class__ = NativeBatchNorm2d
    (gradient,) = torch.autograd.grad((norm(x.requires_grad_()) ** 3).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


UNFIT: dict[str, tuple[Callable[[], nn.BatchNorm2d], Callable[[Tensor], Tensor]]] = {
    "eval": (lambda: normed(8, torch.float32).eval(), lambda x: x),
    "a cumulative mean": (lambda: normed(8, torch.float32, momentum=None), lambda x: x),
    "no weights": (lambda: nn.BatchNorm2d(8, affine=False), lambda x: x),
    "no statistics": (lambda: normed(8, torch.float32, track_running_stats=False), lambda x: x),
    "NCHW": (lambda: normed(8, torch.float32), lambda x: x.contiguous()),
    "half": (lambda: normed(8, torch.float32).half(), lambda x: x.half()),
    "weights in bfloat16": (lambda: normed(8, torch.float32).bfloat16(), lambda x: x.bfloat16()),
    "many channels": (
        lambda: normed(FEW_CHANNELS + 1, torch.float32),
        lambda x: x[:, :1].repeat(1, FEW_CHANNELS + 1, 1, 1).contiguous(memory_format=torch.channels_last),
    ),
}


def rectified_block(norm: nn.BatchNorm2d, inplace: bool) -> nn.Sequential:
    return nn.Sequential(norm, nn.Identity(), nn.ReLU(inplace))


@pytest.mark.parametrize("inplace", [False, True])
def test_a_block_is_the_same_with_its_relu_in_the_norm(inplace: bool) -> None:
    block, (x, slopes) = (
        rectified_block(normed(8, torch.float64), inplace),
        maps((2, 9, 10), 8, torch.float64),
    )
    block[0].bias.data -= 1.5
    found, wanted = [], []
    for values, form in ((wanted, nullcontext()), (found, native_modules(block))):
        block.zero_grad()
        x.grad = None
        with form:
            y = block(x.requires_grad_())
            y.backward(slopes)
        assert ("_Native" in type(y.grad_fn).__name__) == (values is found)
        values += [y.detach(), x.grad, *(parameter.grad for parameter in block.parameters())]
    for ours, torchs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("case", UNFIT)
def test_a_relu_after_what_is_torchs_is_torchs_too(case: str) -> None:
    build, change = UNFIT[case]
    block, x = rectified_block(build(), True), change(maps((2, 9, 10), 8, torch.float32)[0]).requires_grad_()
    ours = copy.deepcopy(block)
    with native_modules(ours):
        found = ours(x)
    assert found.equal(block(x)) and "Relu" in type(found.grad_fn).__name__


def test_without_gradients_a_relu_is_there_too() -> None:
    block, (x, _) = rectified_block(normed(8, torch.float64), True), maps((2, 9, 10), 8, torch.float64)
    block[0].bias.data -= 1.5
    with native_modules(block), torch.no_grad():
        found = block(x)
        block.eval()
        assert block(x).min() == 0
    block.train()
    torch.testing.assert_close(found, block(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("case", UNFIT)
def test_all_else_is_torchs(case: str) -> None:
    build, change = UNFIT[case]
    norm, x = build(), change(maps((2, 9, 10), 8, torch.float32)[0]).requires_grad_()
    ours = copy.deepcopy(norm)
    ours.__class__ = RectifyingBatchNorm2d
    found, wanted = ours(x), norm(x)
    assert "_Native" not in type(found.grad_fn).__name__ and found.equal(wanted)
    for name, tensor in norm.state_dict().items():
        assert tensor.equal(ours.state_dict()[name])


def test_what_torch_refuses_is_refused_alike() -> None:
    norm = normed(8, torch.float32)
    norm.__class__ = NativeBatchNorm2d
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(torch.randn(1, 8, 1, 1))
    with pytest.raises(ValueError, match="expected 4D"):
        norm(torch.randn(2, 8, 1))
    with pytest.raises(RuntimeError, match="running_mean should contain 3 elements"):
        norm(torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last))
    assert norm.num_batches_tracked.item() <= 2  # type: ignore[union-attr,operator]


@pytest.mark.parametrize("momentum", [0, 1])
def test_a_momentum_in_whole_numbers(momentum: int) -> None:
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(4, momentum=momentum) for _ in range(2)]
    maps = (5 + torch.randn(2, 4, 3, 5)).to(memory_format=torch.channels_last)
    norms[1](maps)
    with native_modules(norms[0]):
        norms[0](maps)
    for name, found in norms[0].state_dict().items():
        torch.testing.assert_close(found, norms[1].state_dict()[name])
