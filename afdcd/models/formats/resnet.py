"""A Segmenter's settings, read off the tensors of a ResNet with a DeepLabV3 or FCN head."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

STAGES = ("layer1", "layer2", "layer3", "layer4")
DEPTHS: dict[tuple[str, tuple[int, ...]], str] = {
    ("conv2", (2, 2, 2, 2)): "resnet18",
    ("conv2", (3, 4, 6, 3)): "resnet34",
    ("conv3", (3, 4, 6, 3)): "resnet50",
    ("conv3", (3, 4, 23, 3)): "resnet101",
    ("conv3", (3, 8, 36, 3)): "resnet152",
}
"""(Last convolution of a block, blocks of the stages) -> timm's name."""


def describe(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Settings of a Segmenter with these tensors, by its own names; what tensors do not tell is left out.

    Left out are the output stride, the rates of the pyramid, dropouts and the normalisation.

    Raises:
        KeyError: the tensors are not those of a ResNet with such a head.
    """
    prefix = "backbone.network."
    blocks = tuple(_count(tensors, f"{prefix}{stage}") for stage in STAGES)
    last = "conv3" if f"{prefix}layer1.0.conv3.weight" in tensors else "conv2"
    options: dict[str, Any] = {}
    backbone = DEPTHS.get((last, blocks))
    if backbone is None:
        backbone, options["layers"] = ("resnet50" if last == "conv3" else "resnet18"), list(blocks)
    if f"{prefix}conv1.0.weight" in tensors:
        options |= {"stem_type": "deep", "stem_width": tensors[f"{prefix}conv1.0.weight"].shape[0]}
    widths = [tensors[f"{prefix}{stage}.0.conv1.weight"].shape[0] for stage in STAGES]
    if widths != [64, 128, 256, 512]:
        options["channels"] = widths
    return {
        "backbone": backbone,
        "backbone_options": options,
        "head": "deeplabv3" if any(name.startswith("head.aspp.") for name in tensors) else "fcn",
        "head_channels": tensors["classifier.weight"].shape[1],
        "auxiliary": "auxiliary.classifier.weight" in tensors,
    }


def _count(tensors: Mapping[str, Tensor], stage: str) -> int:
    found = {match[1] for name in tensors if (match := re.match(rf"{re.escape(stage)}\.(\d+)\.", name))}
    return len(found)
