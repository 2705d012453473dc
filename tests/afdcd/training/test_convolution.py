from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from afdcd.native.kernels import has_kernels
from afdcd.training import convolution as module
from afdcd.training.convolution import (
    FrozenConv2d,
    NativeConv2d,
    freeze_convolutions,
    native_convolutions,
)

pytestmark = pytest.mark.skipif(not has_kernels(), reason="no C compiler is installed")

MAP = (2, 64, 12, 24)


@pytest.fixture(autouse=True)
def preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor that gains by it."""
    monkeypatch.setattr(module, "prefers_product", lambda: True)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which forms are asked for."""
    forms: list[str] = []

    def told(name: str) -> None:
        form = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given: (forms.append(name), form(*given))[1])

    for name in ("native_winograd", "direct_convolution", "transformed", "given"):
        told(name)
    return forms


def layer(channels: int = 64, outputs: int = 96, **settings: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    made = nn.Conv2d(channels, outputs, 3, **{"padding": 1, **settings})
    return made.to(memory_format=torch.channels_last)


def image(shape: tuple[int, ...] = MAP) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=draw).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_a_frozen_convolution_computes_the_same_and_makes_filters_once(
    bias: bool, dilation: int, taken: list[str]
) -> None:
    ours = layer(bias=bias, padding=dilation, dilation=dilation)
    theirs, names = copy.deepcopy(ours).double(), list(ours.state_dict())
    assert freeze_convolutions(nn.Sequential(nn.ReLU(), ours)) == 1
    for number in (2, 3):
        given = image((number, *MAP[1:]))
        with torch.no_grad():
            found, wanted = ours(given), theirs(given.double())
        assert (found - wanted).norm() < 4e-6 * wanted.norm()
    assert taken == ["transformed", "given", "given"]
    assert list(ours.state_dict()) == names


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("channels", "outputs", "dilation", "form"),
    [
        *[(64, 96, 1, "native_winograd"), (64, 96, 2, "native_winograd"), (64, 96, 6, "direct_convolution")],
        *[(48, 48, 1, "native_winograd"), (47, 48, 1, "direct_convolution")],
        *[(8, 128, 9, "direct_convolution"), (128, 8, 9, "direct_convolution")],
    ],
)
def test_a_trained_convolution_has_the_same_gradients(
    bias: bool, channels: int, outputs: int, dilation: int, form: str, taken: list[str]
) -> None:
    ours = layer(channels, outputs, bias=bias, padding=dilation, dilation=dilation)
    theirs, one = copy.deepcopy(ours).double(), image((8, channels, 12, 24)).requires_grad_()
    other = one.detach().double().requires_grad_()
    for part in native_convolutions(ours):
        part.__class__ = NativeConv2d
    found, wanted = ours(one), theirs(other)
    slopes = torch.randn_like(found)
    found.backward(slopes)
    wanted.backward(slopes.double())
    assert taken == [form]
    pairs = [(found, wanted), (one.grad, other.grad)]
    pairs += [(a.grad, b.grad) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)]
    assert all((a - b).norm() < 4e-6 * b.norm() for a, b in pairs)


@pytest.mark.parametrize(
    ("kind", "settings", "shape", "autocast"),
    [
        (FrozenConv2d, {"padding": 9, "dilation": 9}, (2, 64, 12, 24), False),  # most lies beyond the border
        (FrozenConv2d, {}, (1, 64, 1, 1), False),
        (FrozenConv2d, {"channels": 16, "outputs": 16}, (8, 16, 24, 48), False),
        (FrozenConv2d, {}, MAP, True),
        (NativeConv2d, {}, MAP, True),
        (NativeConv2d, {"channels": 16, "outputs": 16}, (8, 16, 24, 48), True),
        (NativeConv2d, {"channels": 7}, (2, 7, 12, 24), False),
        (NativeConv2d, {"outputs": 7}, MAP, False),
        (NativeConv2d, {"outputs": 129, "padding": 9, "dilation": 9}, MAP, False),
        (NativeConv2d, {"channels": 129, "padding": 9, "dilation": 9}, (2, 129, 12, 24), False),
    ],
)
def test_where_it_is_not_the_faster_one_torch_convolves(
    kind: type[nn.Conv2d], settings: dict[str, int], shape: tuple[int, ...], autocast: bool, taken: list[str]
) -> None:
    ours = layer(**settings)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        wanted = ours(image(shape))
        ours.__class__ = kind
        assert ours(image(shape)).equal(wanted)
    assert taken == []


def test_gradients_through_a_frozen_convolution_are_not_lost(taken: list[str]) -> None:
    ours, given = layer().requires_grad_(False), image().requires_grad_()
    freeze_convolutions(ours)
    ours(given).sum().backward()
    assert given.grad is not None and given.grad.abs().sum() > 0 and taken == []
    ours.weight.requires_grad_()
    ours(image()).sum().backward()
    assert ours.weight.grad is not None and taken == []


@pytest.mark.parametrize(
    "other",
    [
        *({"stride": 2}, {"padding": 0}, {"groups": 2}, {"padding": 2}, {"padding": 2, "dilation": (2, 1)}),
        *({"padding": "same"}, {"padding_mode": "reflect"}, {"dtype": torch.float64}),
        *({"dtype": torch.bfloat16}, {"kernel_size": 5}),
    ],
)
def test_others_are_left(other: dict[str, Any]) -> None:
    network = nn.Sequential(
        nn.Conv2d(64, 96, **{"kernel_size": 3, "padding": 1, **other}), nn.Conv2d(4, 4, 1)
    )
    assert freeze_convolutions(network) == 0 and all(type(part) is nn.Conv2d for part in network)


def test_a_processor_that_does_not_gain_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "prefers_product", lambda: False)
    assert freeze_convolutions(layer()) == 0
