"""How near one engine's answers are to another's: agreement of class maps, relative error, SQNR of logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from afdcd.errors import UserError
from afdcd.geometry import fit
from deploy.bundle import Contract, Pixels, Range
from deploy.config import Config
from deploy.sessions import Session

_CHUNK = 3
"""Images a call; odd, so that a graph fixed to its example's batch of 2 is found out."""


KINDS = ("real", "uniform", "extremes")
"""Photographs; noise of 0..255; and images of black, white and checks, where sums are largest."""

Shape = tuple[int, int, int]
"""Batch, height, width."""


class Case(Config):
    """The figures of `Parity` for one shape and one kind of input."""

    kind: str
    shape: Shape
    agreement: float
    max_relative_error: float
    sqnr_db: float | None


class Parity(Config):
    """One engine against a reference on the same images.

    Attributes:
        images: how many were compared.
        agreement: share of pixels with the same class, 0..1; of several kinds of input, the lowest.
        max_relative_error: largest difference of a logit, over the largest logit of the reference; of several
            cases, the largest.
        sqnr_db: power of the reference's logits over that of the difference, dB; None when there is none.
        cases: the figures by shape and kind of input, where several were compared.
    """

    images: int
    agreement: float
    max_relative_error: float
    sqnr_db: float | None
    cases: list[Case] = []

    def worst(self) -> Case | None:
        """The case with the largest relative error."""
        return max(self.cases, key=lambda case: case.max_relative_error, default=None)


def compare(reference: Session, engine: Session, images: npt.NDArray[np.uint8]) -> Parity:
    """Run both on images (N, H, W, 3).

    Raises:
        UserError: there are no images.
    """
    if not len(images):
        raise UserError("parity needs at least one image")
    meter, most = Meter(), reference.contract.input.batch.max
    chunk = _CHUNK if most is None else min(_CHUNK, most)
    for start in range(0, len(images), chunk):
        _compare(reference, engine, images[start : start + chunk], [meter])
    return meter.result(len(images))


def shapes(contract: Contract, count: int = 5) -> list[Shape]:
    """Shapes to compare at: of a dynamic graph `count` sizes, odd ones too, else as many batch sizes.

    Sizes go from the smallest to a little above the contract's own, since larger ones cost time, not insight.
    """
    given = contract.input
    height, width = contract.geometry.size
    batches = [_snapped(given.batch, number) for number in range(1, count + 1)]
    if not isinstance(given.height, Range) and not isinstance(given.width, Range):
        return list(dict.fromkeys((batch, height, width) for batch in batches))
    factors = [1.0, 0.0, 0.61, 0.83, 1.17][:count]
    sizes = [
        (_snapped(given.height, height * factor), _snapped(given.width, width * (factor or 0.0)))
        if factor != 1.0
        else (height, width)
        for factor in factors
    ]
    order = [batches[index] for index in (1, 0, 2, 0, 1)]
    return list(dict.fromkeys((batch, *size) for batch, size in zip(order, sizes, strict=False)))


def _snapped(limit: int | Range, wanted: float) -> int:
    """The allowed length near `wanted`, an odd one where every length is allowed."""
    if isinstance(limit, int):
        return limit
    steps = limit.multiple
    low, high = -(-limit.min // steps), (limit.max or 2**31) // steps
    near = min(max(round(wanted / steps), low), high)
    if steps == 1 and wanted > 8 and near % 2 == 0 and near < high:
        near += 1
    return near * steps


def inputs(kind: str, shape: Shape, images: Sequence[Pixels], contract: Contract, first: int = 0) -> Pixels:
    """A batch (B, H, W, 3) of one of `KINDS`; real images are taken in turn from `first` on.

    Raises:
        UserError: real images are asked for, and there are none.
    """
    batch, height, width = shape
    random = np.random.default_rng([first, *shape])
    if kind == "uniform":
        return random.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
    if kind == "extremes":
        return np.stack([_extreme((first + index) % 4, height, width, random) for index in range(batch)])
    if not images:
        raise UserError("parity needs at least one image")
    chosen = (images[(first + index) % len(images)] for index in range(batch))
    return np.stack([fit(image, (height, width), contract.geometry.fit).image for image in chosen])


def _extreme(number: int, height: int, width: int, random: np.random.Generator) -> Pixels:
    """Black-and-white noise, checks of 8 pixels, noise of saturated colours, or one half white."""
    rows, columns = np.indices((height, width))
    if number == 1:
        gray = (rows // 8 + columns // 8) % 2 == 1
    elif number == 3:
        gray = columns * 2 >= width
    elif number == 0:
        gray = random.integers(0, 2, (height, width)) == 1
    else:
        return (random.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)
    return np.repeat((gray[:, :, None] * 255).astype(np.uint8), 3, axis=2)


def suite(reference: Session, engine: Session, images: Sequence[Pixels]) -> Parity:
    """Compare at every shape of `shapes` with every kind of input; `images` at their own sizes.

    Raises:
        UserError: there are no images, or logits are not finite.
    """
    contract = reference.contract
    total, kinds, cases, count = Meter(), {kind: Meter() for kind in KINDS}, [], 0
    for shape in shapes(contract):
        for kind in KINDS:
            meters = (total, kinds[kind], own := Meter())
            _compare(reference, engine, inputs(kind, shape, images, contract, first=count), meters)
            found = own.result(shape[0])
            figures = found.model_dump(include={"agreement", "max_relative_error", "sqnr_db"})
            cases.append(Case(kind=kind, shape=shape, **figures))
        count += shape[0]
    return Parity(
        images=len(KINDS) * count,
        agreement=min(meter.result(1).agreement for meter in kinds.values()),
        max_relative_error=max(case.max_relative_error for case in cases),
        sqnr_db=total.result(1).sqnr_db,
        cases=cases,
    )


def _compare(reference: Session, engine: Session, images: Pixels, meters: Sequence[Meter]) -> None:
    maps = reference.infer(images), engine.infer(images)
    logits = reference.logits(images), engine.logits(images)
    for meter in meters:
        meter.update_class_map(*maps)
        meter.update_logits(*logits)


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
            agreement=self._equal / max(self._pixels, 1),
            max_relative_error=self._worst / max(self._largest, tiny),
            sqnr_db=None if ratio is None else 10 * math.log10(ratio),
        )


def require(
    parity: Parity,
    *,
    model: str,
    min_agreement: float | None,
    max_relative_error: float | None,
    names: tuple[str, str],
    explain: Callable[[Case | None], str | None] | None = None,
) -> None:
    """Refuse an exported graph that does not compute what PyTorch does.

    Args:
        parity: what was measured.
        model: its name, for the message.
        min_agreement: the least share of equal pixels of each kind of input; None is no limit.
        max_relative_error: the largest error of a logit; None is no limit.
        names: what a person calls the two limits.
        explain: says where it goes wrong in the worst case; called only on a miss.

    Raises:
        UserError: agreement or relative error miss their limit; the message gives limit, value and remedy.
    """
    missed = []
    if min_agreement is not None and parity.agreement < min_agreement:
        missed.append((names[0], f"agreement {parity.agreement:.6f} (at least {min_agreement})"))
    if max_relative_error is not None and parity.max_relative_error > max_relative_error:
        value = f"{parity.max_relative_error:.2e} (at most {max_relative_error:.1e})"
        missed.append((names[1], f"largest relative error {value}"))
    if not missed:
        return
    case = parity.worst()
    where = "" if case is None else f", most at {'x'.join(map(str, case.shape))} of {case.kind} input"
    told = explain(case) if explain is not None else None
    raise UserError(
        f"{model}: the exported graph in onnxruntime fp32 differs from PyTorch on {parity.images} images"
        f"{where}: "
        f"{'; '.join(f'{name} is missed by {said}' for name, said in missed)}; "
        f"{told or 'look for an operator that the exporter changed'}, "
        f"or accept it by {' and '.join(name for name, _ in missed)}"
    )
