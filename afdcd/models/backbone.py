"""Any timm network that can give the asked output stride, as a module that returns its stages."""

from __future__ import annotations

import re
from typing import Any

import timm
from torch import Tensor, nn

from afdcd.errors import UserError
from afdcd.models.names import check_backbone

FINEST_STRIDE = 4
"""Stems at stride 2 are left out: no loss and no head reads them, and they are the largest maps."""


class Backbone(nn.Module):
    """A timm feature extractor whose last stages are dilated to keep `output_stride`.

    Attributes:
        channels: channel counts of the returned stages, fine to coarse.
        strides: their strides in input pixels.
    """

    def __init__(self, name: str, options: dict[str, Any], output_stride: int) -> None:
        """Build the network with random weights.

        Args:
            name: a timm architecture, for instance `resnet18`.
            options: keywords of its constructor; lists become tuples. One is not timm's:
                `dilate_whole_stages` also dilates the first block of a stage that keeps its size, as
                torchvision's MobileNets and segmentation-models-pytorch do and timm and ResNets do not.
            output_stride: 8, 16 or 32, the stride of the last stage.

        Raises:
            UserError: an unknown name or option, an impossible value or stride.
        """
        super().__init__()
        check_backbone(name, options)
        given = {key: _tuples(value) for key, value in options.items()}
        whole = given.pop("dilate_whole_stages", False)
        self.network = _create(name, given, output_stride)
        if whole:
            _dilate_whole_stages(self.network)
        channels, strides = self.network.feature_info.channels(), self.network.feature_info.reduction()
        if strides[-1] != output_stride:
            raise UserError(
                f"backbone {name!r} gives features at stride {strides[-1]}, not {output_stride}; "
                "set output_stride to what it gives, or choose a backbone with dilation such as resnet18"
            )
        self.skipped = sum(stride < FINEST_STRIDE for stride in strides)
        self.channels: tuple[int, ...] = tuple(channels[self.skipped :])
        self.strides: tuple[int, ...] = tuple(strides[self.skipped :])
        self.channels_last_axis = str(getattr(self.network, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Stages (B, C_i, h_i, w_i) of normalised images (B, 3, H, W), fine to coarse."""
        stages = self.network(images)[self.skipped :]
        return tuple(stage.permute(0, 3, 1, 2) if self.channels_last_axis else stage for stage in stages)


_STAGE = re.compile(r"(?:layer|blocks\.|stages[._])\d+")


def _dilate_whole_stages(network: nn.Module) -> None:
    """Give every convolution of a stage the dilation of its last ones, and padding to match."""
    stages: dict[str, list[nn.Conv2d]] = {}
    for name, module in network.named_modules():
        stage = _STAGE.match(name)
        if stage and isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
            stages.setdefault(stage[0], []).append(module)
    for convolutions in stages.values():
        rate = max(convolution.dilation[0] for convolution in convolutions)
        for convolution in convolutions if rate > 1 else ():
            convolution.dilation = (rate, rate)
            convolution.padding = tuple(rate * (side // 2) for side in convolution.kernel_size)


def _tuples(value: Any) -> Any:
    """Lists, as YAML gives them, become the tuples that timm expects."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _create(name: str, options: dict[str, Any], output_stride: int) -> Any:
    """The network of timm, with dilation where its constructor offers it.

    Networks without an `output_stride` argument have one fixed stride, which the caller compares.
    """
    try:
        try:
            return timm.create_model(name, features_only=True, output_stride=output_stride, **options)
        except TypeError as error:
            if "'output_stride'" not in str(error):
                raise
            return timm.create_model(name, features_only=True, **options)
    except (TypeError, ValueError, AssertionError, RuntimeError, AttributeError) as error:
        reason = str(error).strip() or "it refuses the combination"
        raise UserError(
            f"backbone {name!r} cannot be built with output_stride {output_stride} and backbone_options "
            f"{options}: {reason}; change one of the three"
        ) from error
