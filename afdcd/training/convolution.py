"""3x3 convolutions on a CPU in Winograd's forms or tap by tap, where they take less time than torch's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from afdcd.losses.product import Panels, panels, product_of_panels
from afdcd.losses.winograd_native import (
    FILTER_ROWS,
    cheapest_side,
    given,
    native_winograd,
    taken,
    transformed,
    work,
)
from afdcd.native.kernels import prefers_product
from afdcd.training.direct import direct_convolution

_TRAINED, _FROZEN = 19, 60
"""What a map's transforms take, in products of so many channels: with gradients, and forward alone. Measured
on maps of 12x24 to 64x128 cells with 16 to 512 channels."""
_TRANSFORMED = 96
"""Channels of both maps, from which a convolution that is trained gains by transforms at all."""
_BY_TAP = range(8, 129)
"""Channels with which one that is trained is quicker tap by tap than torch's, by up to half of the time."""


class NativeConv2d(nn.Conv2d):
    """A convolution that is trained, in the form that takes the least time for each map."""

    def forward(self, input: Tensor) -> Tensor:
        """The map (B, O, H, W) of a map (B, C, H, W)."""
        dilation = int(self.dilation[0])
        side = cheapest_side(input, FILTER_ROWS, dilation)
        transforms = self.in_channels + self.out_channels >= _TRANSFORMED
        if transforms and _saves(self, input, work(input, side, FILTER_ROWS, dilation), _TRAINED):
            bias = input.new_zeros(self.out_channels) if self.bias is None else self.bias
            return native_winograd(input, self.weight, bias, dilation)
        if self.in_channels in _BY_TAP and self.out_channels in _BY_TAP and _suits(self, input):
            found = direct_convolution(input, self.weight, dilation)
            return found if self.bias is None else found + self.bias.view(-1, 1, 1)
        return super().forward(input)


class FrozenConv2d(nn.Conv2d):
    """A convolution that is trained no more: numbers of its filters are made once."""

    def forward(self, input: Tensor) -> Tensor:
        """The map (B, O, H, W) of a map (B, C, H, W); where gradients are asked for, torch convolves."""
        dilation = int(self.dilation[0])
        side = cheapest_side(input, dilation=dilation)
        asked = torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad)
        if asked or not _saves(self, input, work(input, side, dilation=dilation), _FROZEN):
            return super().forward(input)
        known: dict[int, Panels] = self.__dict__.setdefault("_filters", {})
        if side not in known:
            known[side] = panels(transformed(self.weight, side, input))
        bias = input.new_zeros(self.out_channels) if self.bias is None else self.bias
        outs = product_of_panels(taken(input, side, dilation), known[side])
        return given(outs, bias, side, input.shape, dilation)


def freeze_convolutions(network: nn.Module) -> int:
    """Let 3x3 convolutions of a network that is trained no more be `FrozenConv2d`, where that is quicker.

    Outputs differ by rounding: by 1e-6 to 4e-6 of their norm. Names and the state dict stay as they are.
    Filters' numbers take up to four times the weights' memory.

    Args:
        network: in float32 on a CPU; convolutions that do not fit stay as they are.

    Returns:
        How many are changed.
    """
    fitting = native_convolutions(network)
    for part in fitting:
        part.__class__ = FrozenConv2d
    return len(fitting)


def native_convolutions(network: nn.Module) -> list[nn.Module]:
    """Convolutions 3x3 that keep a map's size, on a processor where products in C are the faster ones."""
    return [part for part in network.modules() if _fits(part)] if prefers_product() else []


def _fits(part: nn.Module) -> bool:
    if type(part) is not nn.Conv2d or part.weight.dtype != torch.float32 or not part.weight.is_cpu:
        return False
    kept = part.padding == part.dilation and part.dilation[0] == part.dilation[1]
    plain = part.kernel_size == (3, 3) and part.stride == (1, 1) and part.padding_mode == "zeros"
    return kept and plain and part.groups == 1


def _saves(layer: nn.Conv2d, features: Tensor, products: int, channels: int) -> bool:
    """Whether a form with so many products takes less time than torch's convolution of a map."""
    if not _suits(layer, features):
        return False
    dilation = int(layer.dilation[0])
    # oneDNN leaves out what lies beyond the border.
    down, across = (length + 2 * max(0, length - dilation) for length in features.shape[2:])
    transforms = 1 + channels / layer.in_channels + channels / layer.out_channels
    return products * transforms < len(features) * down * across


def _suits(layer: nn.Conv2d, features: Tensor) -> bool:
    return features.dtype == layer.weight.dtype and not torch.is_autocast_enabled("cpu")
