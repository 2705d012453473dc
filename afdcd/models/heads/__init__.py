"""Heads: from backbone stages to the features before the classifier.

A head is built as `Head(channels, config)` and maps the tuple of stages to (B, head_channels, h, w), at the
size of the stage that its attribute `stage` counts: the last one, or a finer one.
"""

from __future__ import annotations

HEADS: dict[str, str] = {
    "deeplabv3": "afdcd.models.heads.deeplabv3:DeepLabV3Head",
    "fcn": "afdcd.models.heads.fcn:FCNTopHead",
    "lraspp": "afdcd.models.heads.lraspp:LRASPPHead",
    "psp": "afdcd.models.heads.psp:PSPHead",
    "segformer": "afdcd.models.heads.segformer:SegFormerHead",
}
