"""Heads: from backbone stages to the features before the classifier.

A head is built as `Head(channels, config)` and maps the tuple of stages to (B, head_channels, h, w).
"""

from __future__ import annotations

HEADS: dict[str, str] = {
    "deeplabv3": "afdcd.models.heads.deeplabv3:DeepLabV3Head",
    "psp": "afdcd.models.heads.psp:PSPHead",
}
