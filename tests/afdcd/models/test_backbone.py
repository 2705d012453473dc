from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from afdcd.errors import UserError
from afdcd.models.backbone import Backbone


def dilations(name: str, stage: str) -> list[list[int]]:
    """Dilations of the 3x3 convolutions, a list a block."""
    network: Any = Backbone(name, {"channels": [8, 16, 32, 64]}, 8).network
    blocks = network[stage]
    return [
        [m.dilation[0] for m in block.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        for block in blocks
    ]


def test_basic_blocks_are_dilated_as_in_the_released_networks() -> None:
    # Source: METHODS 6.1: stage 3 dilation 2 (first block 1 then 2), stage 4 dilation 4 (first block 2).
    assert dilations("resnet18", "layer2") == [[1, 1], [1, 1]]
    assert dilations("resnet18", "layer3") == [[1, 2], [2, 2]]
    assert dilations("resnet18", "layer4") == [[2, 4], [4, 4]]


def test_bottlenecks_are_dilated_as_in_the_released_networks() -> None:
    assert dilations("resnet50", "layer3") == [[1]] + [[2]] * 5
    assert dilations("resnet50", "layer4") == [[2], [4], [4]]


@pytest.mark.parametrize(
    ("stride", "strides"), [(8, (4, 8, 8, 8)), (16, (4, 8, 16, 16)), (32, (4, 8, 16, 32))]
)
def test_output_stride(stride: int, strides: tuple[int, ...]) -> None:
    backbone = Backbone("resnet18", {"channels": [8, 16, 32, 64]}, stride)
    assert backbone.strides == strides
    stages = backbone(torch.zeros(1, 3, 64, 64))
    assert tuple(64 // stage.shape[2] for stage in stages) == strides


def test_mobilenet_ends_with_its_320_channels() -> None:
    assert Backbone("mobilenetv2_100", {}, 8).channels == (24, 32, 96, 320)


def test_a_backbone_with_one_fixed_stride_and_channels_last_axis() -> None:
    options = {
        "embed_dim": 24,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 2, 2, 4],
        "img_size": 64,
        "window_size": 2,
    }
    backbone = Backbone("swin_tiny_patch4_window7_224", options, 32)
    shapes = [tuple(stage.shape[1:]) for stage in backbone(torch.zeros(1, 3, 64, 64))]
    assert shapes == [(24, 16, 16), (48, 8, 8), (96, 4, 4), (192, 2, 2)]
    with pytest.raises(UserError, match="gives features at stride 32, not 8; set output_stride"):
        Backbone("swin_tiny_patch4_window7_224", options, 8)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet81", {}, "no backbone 'resnet81'; did you mean 'resnet18'"),
        ("resnet18", {"stem_widht": 8}, "no option 'stem_widht'; did you mean 'stem_width'"),
        ("resnet18", {"num_classes": 3}, "backbone_options.num_classes is set by the Segmenter"),
        ("resnet18", {"channels": "wide"}, "'resnet18' cannot be built with output_stride 8"),
        ("vgg11", {}, "'vgg11' cannot be built with output_stride 8"),
    ],
)
def test_what_timm_cannot_build_is_one_sentence(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Backbone(name, options, 8)
