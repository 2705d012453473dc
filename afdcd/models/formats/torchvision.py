"""torchvision.models.segmentation: deeplabv3_resnet50/101 and fcn_resnet50/101.

| torchvision | here |
|---|---|
| `backbone.X` of a ResNet | `backbone.network.X` |
| `classifier.0`, `.1`, `.2`, `.4` of DeepLabV3 | `head.aspp`, `head.block.0`, `head.block.1`, `classifier` |
| `classifier.0`, `.1`, `.4` of FCN | `head.block.0`, `head.block.1`, `classifier` |
| `aux_classifier.0`, `.1`, `.4` | `auxiliary.features.0`, `.1`, `auxiliary.classifier` |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from afdcd.config import Normalisation
from afdcd.errors import UserError
from afdcd.models.formats.renaming import renamed
from afdcd.models.formats.resnet import describe as describe_resnet

NORMALISATION = Normalisation(order="rgb", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))

_AUXILIARY = [
    (r"aux_classifier\.([01])\.", r"auxiliary.features.\1."),
    (r"aux_classifier\.4\.", "auxiliary.classifier."),
]
_RESNET = [(r"backbone\.", "backbone.network.")]
_DEEPLAB = [
    (r"classifier\.0\.", "head.aspp."),
    (r"classifier\.1\.", "head.block.0."),
    (r"classifier\.2\.", "head.block.1."),
    (r"classifier\.4\.", "classifier."),
]
_FCN = [(r"classifier\.([01])\.", r"head.block.\1."), (r"classifier\.4\.", "classifier.")]


def translate(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors under a Segmenter's names, and its settings as far as they tell.

    Raises:
        KeyError: they are not of a network of this format.
        UserError: they are of LR-ASPP.
    """
    if "classifier.low_classifier.weight" in tensors:
        raise UserError(
            "torchvision's lraspp reads its fine stage after the first of that stage's blocks, which no timm "
            "backbone gives out: it cannot be imported; the head lraspp here is trained anew"
        )
    head = _DEEPLAB if any(name.startswith("classifier.0.convs.") for name in tensors) else _FCN
    found = renamed(tensors, [*_RESNET, *head, *_AUXILIARY])
    return found, describe_resnet(found) | {"output_stride": 8, "normalisation": NORMALISATION}
