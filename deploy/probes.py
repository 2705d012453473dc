"""Logits of a few images on a grid of pixels: what an engine's are held against where PyTorch is not.

A grid, since all logits of a large image and many classes would be the largest file of a run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from afdcd.config import Size
from afdcd.errors import UserError
from afdcd.geometry import Fit, fit
from deploy.evaluate import Pixels, Sample
from deploy.parity import Meter

IMAGES = 4
"""Images that are probed: the first of the split."""

POINTS = 4096
"""Pixels of an image that are kept at most, of each class's logit."""

Logits = npt.NDArray[np.float32]


class GivesLogits(Protocol):
    """The part of a session that a probe needs."""

    def logits(self, images: Pixels) -> Logits:
        """Logits (B, K, H, W) of images uint8 (B, H, W, 3)."""
        ...


def probe(session: GivesLogits, samples: Iterable[Sample], *, size: Size, mode: Fit) -> dict[str, Logits]:
    """Logits (1, K, h, w) by name of the first `IMAGES` samples, each brought to `size`."""
    found: dict[str, Logits] = {}
    for _, sample in zip(range(IMAGES), samples, strict=False):
        found[sample.name] = _grid(session.logits(fit(sample.image, size, mode).image[None]))
    return found


def relative_error(
    session: GivesLogits,
    samples: Iterable[Sample],
    wanted: Mapping[str, npt.NDArray[Any]],
    *,
    size: Size,
    mode: Fit,
) -> float:
    """Largest difference of an engine's logits from the probes `wanted`, over the largest logit of these.

    Raises:
        UserError: the probes are of other images or classes, or a logit is not finite.
    """
    found = probe(session, samples, size=size, mode=mode)
    meter = Meter()
    for name, logits in found.items():
        if name not in wanted or wanted[name].shape != logits.shape:
            raise UserError(
                f"the reference's logits are not of the sample {name!r} at this size and of these classes; "
                "make the reference anew from the same images"
            )
        meter.update_logits(wanted[name], logits)
    return meter.result(len(found)).max_relative_error


def _grid(logits: Logits) -> Logits:
    """Every so many-th row and column, so that `POINTS` pixels are left at most."""
    height, width = logits.shape[2:]
    step = max(1, math.ceil(math.sqrt(height * width / POINTS)))
    return np.ascontiguousarray(logits[:, :, ::step, ::step])
