"""How near one engine's answers are to another's: agreement of class maps, relative error, SQNR of logits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from afdcd.errors import UserError
from deploy.config import Config
from deploy.sessions import Session

_CHUNK = 3
"""Images a call; odd, so that a graph fixed to its example's batch of 2 is found out."""


class Parity(Config):
    """One engine against a reference on the same images.

    Attributes:
        images: how many were compared.
        agreement: share of pixels with the same class, 0..1.
        max_relative_error: largest difference of a logit, over the largest logit of the reference.
        sqnr_db: power of the reference's logits over that of the difference, dB; None when there is none.
    """

    images: int
    agreement: float
    max_relative_error: float
    sqnr_db: float | None


def compare(reference: Session, engine: Session, images: npt.NDArray[np.uint8]) -> Parity:
    """Run both on images (N, H, W, 3).

    Raises:
        UserError: there are no images.
    """
    if not len(images):
        raise UserError("parity needs at least one image")
    meter = Meter()
    for start in range(0, len(images), _CHUNK):
        part = images[start : start + _CHUNK]
        meter.update_class_map(reference.infer(part), engine.infer(part))
        meter.update_logits(reference.logits(part), engine.logits(part))
    return meter.result(len(images))


class Meter:
    """Sums over images, so that no more than a few images' logits are in memory."""

    def __init__(self) -> None:
        self._equal = self._pixels = 0
        self._largest = self._worst = self._signal = self._noise = 0.0

    def update_class_map(self, reference: npt.NDArray[Any], other: npt.NDArray[Any]) -> None:
        """Count equal pixels of two class maps (B, H, W)."""
        self._equal += int(np.count_nonzero(reference == other))
        self._pixels += reference.size

    def update_logits(self, reference: npt.NDArray[Any], other: npt.NDArray[Any]) -> None:
        """Add up two logits (B, K, H, W) in double precision.

        Raises:
            UserError: a logit is not finite.
        """
        if not (np.isfinite(reference).all() and np.isfinite(other).all()):
            raise UserError(
                "an engine gives logits that are not finite; look for an overflow, or weights that are NaN"
            )
        wanted = reference.astype(np.float64)
        difference = other.astype(np.float64) - wanted
        self._largest = max(self._largest, float(np.abs(wanted).max()))
        self._worst = max(self._worst, float(np.abs(difference).max()))
        self._signal += float(np.square(wanted).sum())
        self._noise += float(np.square(difference).sum())

    def result(self, images: int) -> Parity:
        """The figures so far; an error against a reference of zeros counts from the smallest double."""
        tiny = float(np.finfo(np.float64).tiny)
        ratio = max(self._signal, tiny) / self._noise if self._noise > 0 else None
        return Parity(
            images=images,
            agreement=self._equal / self._pixels,
            max_relative_error=self._worst / max(self._largest, tiny),
            sqnr_db=None if ratio is None else 10 * math.log10(ratio),
        )


def require(parity: Parity, *, model: str, min_agreement: float, max_relative_error: float) -> None:
    """Refuse an exported graph that does not compute what PyTorch does.

    Raises:
        UserError: agreement or relative error miss their limit; the message gives the figures.
    """
    if parity.agreement < min_agreement or parity.max_relative_error > max_relative_error:
        raise UserError(
            f"{model}: the exported graph differs from PyTorch on {parity.images} images: "
            f"agreement {parity.agreement:.6f} (at least {min_agreement}), largest relative error "
            f"{parity.max_relative_error:.2e} (at most {max_relative_error:.1e}); "
            "look for an operator that the exporter changed, or set deploy.export's limits"
        )
