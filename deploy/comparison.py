"""Files and bundles held against the first of them on the same inputs: anyone's ONNX, any engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from afdcd.config import Normalisation
from afdcd.errors import UserError
from afdcd.geometry import fit
from deploy.anyones import Array, Given, Wish, open_file, outputs_of, random_feed, shape_of
from deploy.benchmark_worker import Subject
from deploy.bundle import Pixels, read_manifest
from deploy.config import Config
from deploy.parity import KINDS, Meter
from deploy.pixels import UNIT, prepared
from deploy.sessions import open_session


class Compared(Config):
    """One model against the first.

    Attributes:
        bytes: of the file and those of its weights, or of the bundle's engine.
        agreement: share of pixels with the same class, 0..1, over all inputs; of scores (B, K, H, W) the
            class is the largest of K. None where no output is a class map or such scores.
        max_relative_error: largest difference of a float output over its largest value; None without one.
        sqnr_db: power of the first's float outputs over that of the difference, dB; None when there is none.
        inputs: how many batches were compared.
        miou: 0..1, as a released bundle says; likewise the median latency.
    """

    bytes: int
    agreement: float | None
    max_relative_error: float | None
    sqnr_db: float | None
    inputs: int
    miou: float | None
    p50_ms: float | None


def compare(
    subjects: Sequence[Subject],
    images: Sequence[Pixels],
    tick: Callable[[], None] = lambda: None,
    *,
    normalisation: Normalisation | None = None,
) -> dict[str, Compared]:
    """Run all on real images (where given), noise and extremes; the first is the reference.

    `tick` is called after each. `normalisation` is what files with float images expect; None divides by 255.

    Raises:
        UserError: a model cannot be opened or run, or gives other outputs than the first, or none to judge.
    """
    kinds = KINDS if images else KINDS[1:]
    pixels = normalisation or UNIT
    wanted = {kind: _outputs(subjects[0], kind, images, pixels) for kind in kinds}
    found = {}
    for subject in subjects:
        meter, seen = Meter(), [False, False]
        for kind in kinds:
            given = wanted[kind] if subject is subjects[0] else _outputs(subject, kind, images, pixels)
            for first, second in _pairs(subjects[0], subject, wanted[kind], given):
                labels, others = _classes(first), _classes(second)
                if labels is not None and others is not None:
                    meter.update_class_map(labels, others)
                    seen[0] = True
                if first.dtype.kind == "f" and second.dtype.kind == "f":
                    meter.update_logits(first, second)
                    seen[1] = True
        if not any(seen):
            raise UserError(
                f"{subject.name} and {subjects[0].name} have no class map, no scores and no float output in "
                "common; compare models of segmentation"
            )
        figures = meter.result(len(kinds))
        found[subject.name] = Compared(
            bytes=_bytes(subject.path),
            agreement=figures.agreement if seen[0] else None,
            max_relative_error=figures.max_relative_error if seen[1] else None,
            sqnr_db=figures.sqnr_db if seen[1] else None,
            inputs=len(kinds),
            **_measured(subject.path),
        )
        tick()
    return found


def _pairs(
    first: Subject, other: Subject, wanted: dict[str, Array], given: dict[str, Array]
) -> list[tuple[Array, Array]]:
    """Outputs that both give, by name; where they share no name, the only two of one kind and shape."""
    pairs = [(wanted[name], given[name]) for name in wanted if name in given]
    if not pairs:
        pairs = [(one, two) for one in wanted.values() for two in given.values() if _alike(one, two)]
        pairs = pairs if len(pairs) == 1 else []
    if not pairs and len(wanted) == len(given) == 1:
        pairs = list(zip(wanted.values(), given.values(), strict=True))
    if not pairs or any(one.shape != two.shape for one, two in pairs):
        shapes = [
            ", ".join(f"{name} {value.shape}" for name, value in side.items()) for side in (wanted, given)
        ]
        raise UserError(
            f"{other.name} gives {shapes[1]}, {first.name} gives {shapes[0]}; compare models of the same "
            "outputs and sizes (--shape)"
        )
    return pairs


def _alike(one: Array, two: Array) -> bool:
    return one.shape == two.shape and one.dtype.kind == two.dtype.kind


def _classes(value: Array) -> npt.NDArray[np.int64] | None:
    """The class map of an output, where it is one or scores of classes."""
    if value.dtype.kind in "iu" and value.ndim >= 3:
        return value.astype(np.int64)
    if value.dtype.kind == "f" and value.ndim == 4 and value.shape[1] > 1:
        return np.asarray(value.argmax(axis=1), dtype=np.int64)
    return None


def _outputs(
    subject: Subject, kind: str, images: Sequence[Pixels], pixels: Normalisation
) -> dict[str, Array]:
    if subject.path.is_dir():
        contract = read_manifest(subject.path).contract
        fed = _pixels(kind, contract.input.batch.min, contract.geometry.size, images)
        with open_session(subject.path, threads=subject.threads) as session:
            return {contract.output.name: session.infer(fed), contract.logits: session.logits(fed)}
    (call,) = open_file(
        subject.path,
        subject.engine,
        threads=subject.threads,
        wishes=subject.shapes,
        feeder=_feeder(kind, images, pixels),
    )
    return dict(zip(_names(subject.path), outputs_of(call()), strict=True))


def _names(path: Path) -> list[str]:
    from deploy.graph import load

    return [value.name for value in load(path).graph.output]


def _feeder(
    kind: str, images: Sequence[Pixels], normalisation: Normalisation
) -> Callable[..., dict[str, Array]]:
    """Feeds images to inputs that look like images: bytes (B, H, W, 3), normalised floats (B, 3, H, W)."""

    def feed(given: Sequence[Given], wishes: Sequence[Wish], path: Path) -> dict[str, Array]:
        made = random_feed(given, wishes, path)
        for one in given:
            shape = shape_of(one, wishes, path)
            if len(shape) == 4 and shape[-1] == 3 and made[one.name].dtype == np.uint8:
                made[one.name] = _pixels(kind, shape[0], (shape[1], shape[2]), images)
            elif len(shape) == 4 and shape[1] == 3 and made[one.name].dtype.kind == "f":
                pixels = _pixels(kind, shape[0], (shape[2], shape[3]), images)
                made[one.name] = prepared(pixels, normalisation).astype(made[one.name].dtype)
        return made

    return feed


def _pixels(kind: str, batch: int, size: tuple[int, int], images: Sequence[Pixels]) -> Pixels:
    random = np.random.default_rng([batch, *size])
    if kind == "real":
        return np.stack([fit(images[i % len(images)], size, "stretch").image for i in range(batch)])
    drawn: npt.NDArray[Any] = random.integers(0, 256 if kind == "uniform" else 2, (batch, *size, 3))
    return (drawn if kind == "uniform" else 255 * drawn).astype(np.uint8)


def _bytes(path: Path) -> int:
    if path.is_dir():
        return read_manifest(path).size()
    from deploy.graph import outside

    weights = [path.parent / name for name in outside(path)]
    return sum(file.stat().st_size for file in (path, *weights))


def _measured(path: Path) -> dict[str, float | None]:
    """Accuracy and latency that a released bundle carries."""
    measured = (read_manifest(path).measured or {}) if path.is_dir() else {}
    return {
        "miou": _number(measured, "accuracy", "miou"),
        "p50_ms": _number(measured, "latency", "latency_ms", "p50"),
    }


def _number(record: Any, *keys: str) -> float | None:
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None
    return float(record) if isinstance(record, (int, float)) else None
