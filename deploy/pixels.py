"""What is done to pixels before a network, in numpy, for graphs that leave it to others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from afdcd.config import Normalisation

UNIT = Normalisation(order="rgb", mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))
"""Values of 0..1."""


def prepared(images: npt.NDArray[np.uint8], normalisation: Normalisation) -> npt.NDArray[np.float32]:
    """Normalised floats (B, 3, H, W) of RGB images (B, H, W, 3)."""
    pixels = images[..., ::-1] if normalisation.order == "bgr" else images
    mean, std = (np.array(values, dtype=np.float32) for values in (normalisation.mean, normalisation.std))
    return np.ascontiguousarray(((pixels.astype(np.float32) - mean) / std).transpose(0, 3, 1, 2))
