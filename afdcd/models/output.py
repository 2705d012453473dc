"""What a segmentation network returns: named fields, never positions."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

Stop = Literal["features", "head_features", "logits"]
"""How far a forward pass must go: a teacher stops before the fields that nobody needs."""


class SegOutput(NamedTuple):
    """One forward pass; fields that were not asked for are None.

    A NamedTuple because torch.export and fvcore trace it.

    Attributes:
        logits: (B, K, h, w) at the network's own stride, not upsampled.
        features: backbone stages from fine to coarse, (B, C_i, h_i, w_i); the last one is the paper's F.
        head_features: (B, C, h, w), the head's output just before the classifier (the paper's G).
        aux: (B, K, h, w), logits of the training-only auxiliary head.
    """

    logits: Tensor | None
    features: tuple[Tensor, ...]
    head_features: Tensor | None
    aux: Tensor | None


class ChannelSpec(NamedTuple):
    """Channel counts of a network's outputs, for adapters."""

    features: tuple[int, ...]
    head_features: int
    num_classes: int
