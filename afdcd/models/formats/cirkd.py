"""The .pth files that CIRKD and Af-DCD released: DeepLabV3 on dilated ResNets with a deep stem.

| released | here |
|---|---|
| `pretrained.conv1.N` or `pretrained.conv1..3`, `bn1..3` | `backbone.network.conv1.N`, `bn1` |
| `pretrained.X` | `backbone.network.X` |
| `head.aspp.b0` .. `b4` (`.block`, `.gap`) | `head.aspp.convs.0` .. `4` |
| `head.aspp.project` | `head.aspp.project` |
| `head.block.0`, `.1`, `.4` | `head.block.0`, `.1`, `classifier` |
| `auxlayer.block.0`, `.1`, `.4` | `auxiliary.features.0`, `.1`, `auxiliary.classifier` |

A prefix `module.` of several GPUs is dropped; ImageNet's classifier (`pretrained.fc`) is left aside. Their
logits are enlarged with aligned corners, an engine's here are not: maps agree inside, not to the last pixel.
PSPNet of that code resizes inside its pyramid with aligned corners and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from afdcd.config import Normalisation
from afdcd.errors import UserError
from afdcd.models.formats.renaming import renamed
from afdcd.models.formats.resnet import describe

NORMALISATION = Normalisation(
    order="bgr", mean=(104.00698793, 116.66876762, 122.67891434), std=(1.0, 1.0, 1.0)
)

_STEM = [
    (r"pretrained\.conv2\.", "backbone.network.conv1.3."),
    (r"pretrained\.conv3\.", "backbone.network.conv1.6."),
    (r"pretrained\.conv1\.", "backbone.network.conv1.0."),
    (r"pretrained\.bn1\.", "backbone.network.conv1.1."),
    (r"pretrained\.bn2\.", "backbone.network.conv1.4."),
    (r"pretrained\.bn3\.", "backbone.network.bn1."),
]
"""For files whose stem is three convolutions of names of their own."""

_RULES = [
    (r"pretrained\.", "backbone.network."),
    (r"head\.aspp\.b4\.gap\.", "head.aspp.convs.4."),
    (r"head\.aspp\.b([123])\.block\.", r"head.aspp.convs.\1."),
    (r"head\.aspp\.b0\.", "head.aspp.convs.0."),
    (r"head\.block\.4\.", "classifier."),
    (r"auxlayer\.block\.([01])\.", r"auxiliary.features.\1."),
    (r"auxlayer\.block\.4\.", "auxiliary.classifier."),
]


def translate(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors under a Segmenter's names, and its settings as far as they tell.

    Raises:
        KeyError: they are not of a network of this format.
        UserError: they are of a PSPNet.
    """
    plain = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if any(name.startswith("head.psp.") for name in plain):
        raise UserError(
            "a PSPNet of format cirkd resizes inside its pyramid with aligned corners, which the head psp "
            "here does not; only its DeepLabV3 can be imported"
        )
    kept = {name: tensor for name, tensor in plain.items() if not name.startswith("pretrained.fc.")}
    rules = [*(_STEM if "pretrained.conv2.weight" in kept else []), *_RULES]
    found = renamed(kept, rules)
    return found, describe(found) | {"output_stride": 8, "normalisation": NORMALISATION}
