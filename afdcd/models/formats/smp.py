"""segmentation-models-pytorch: DeepLabV3 on a ResNet encoder, output stride 8 (its default) or 16.

| segmentation-models-pytorch | here |
|---|---|
| `encoder.X` | `backbone.network.X` |
| `decoder.0` or `decoder.aspp` | `head.aspp` |
| `decoder.1`, `decoder.2` (`conv`, `bn`) | `head.block.0`, `head.block.1` |
| `segmentation_head.0` | `classifier` |

Its encoders dilate whole stages, their first block too: `backbone_options.dilate_whole_stages`. It has no
auxiliary head. The file does not tell the output stride: 8 is taken, `teacher.model.output_stride=16` says
otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from afdcd.config import Normalisation
from afdcd.models.formats.renaming import renamed
from afdcd.models.formats.resnet import describe

NORMALISATION = Normalisation(order="rgb", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))

_RULES = [
    (r"encoder\.", "backbone.network."),
    (r"decoder\.(0|aspp)\.", "head.aspp."),
    (r"decoder\.(1|conv)\.", "head.block.0."),
    (r"decoder\.(2|bn)\.", "head.block.1."),
    (r"segmentation_head\.0\.", "classifier."),
]


def translate(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors under a Segmenter's names, and its settings as far as they tell.

    Raises:
        KeyError: they are not of a network of this format.
    """
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("encoder.fc.")}
    found = renamed(kept, _RULES)
    settings = describe(found)
    options = settings["backbone_options"] | {"dilate_whole_stages": True}
    extra = {"backbone_options": options, "output_stride": 8, "normalisation": NORMALISATION}
    return found, settings | extra
