"""What the stages `reference` and `evaluate` share: the test split through a session, and what they write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from afdcd.data.manifest import Manifest
from afdcd.errors import UserError
from afdcd.files import atomic_folder, write_json
from deploy.bundle import Contract
from deploy.evaluate import Evaluation, Sample, evaluate
from deploy.maps import Maps, save_maps
from deploy.probes import probe, relative_error
from deploy.progress import track
from deploy.sessions import Session
from pipeline import paths

SPLIT = "test"
SCORE = "score.json"
PREDICTIONS = "predictions.npz"
GALLERY = "gallery.npz"
LOGITS = "logits.npz"
"""PyTorch's logits of the first test images on a grid (`deploy.probes`)."""


def samples(manifest: Manifest) -> Iterator[Sample]:
    """The test split, one image at a time, at the images' own sizes."""
    for entry in manifest.split(SPLIT):
        yield Sample(entry.name, manifest.image(entry), manifest.labels(entry))


def score(
    session: Session, what: str, *, reference: Maps | None, gallery: int | None, engine: str | None
) -> Evaluation:
    """Score `session` on the test split of the prepared data.

    Args:
        session: an open engine.
        what: its name in the progress bar.
        reference: PyTorch's class maps, to agree with.
        gallery: how many class maps to keep; None for all.
        engine: hash of the bundle.

    Raises:
        UserError: the engine was made for other classes.
    """
    manifest, contract = Manifest.load(paths.PREPARED), session.contract
    require_classes(manifest, contract, what)
    count = len(manifest.split(SPLIT))
    return evaluate(
        session,
        track(samples(manifest), what, count),
        classes=contract.classes,
        ignore_index=contract.ignore_index,
        size=contract.geometry.size,
        mode=contract.geometry.fit,
        reference=reference,
        gallery=count if gallery is None else gallery,
        engine=engine,
    )


def reference_logits(session: Session) -> dict[str, npt.NDArray[np.float32]]:
    """Logits of the first test images on a grid, for engines to be held against."""
    geometry = session.contract.geometry
    return probe(session, samples(Manifest.load(paths.PREPARED)), size=geometry.size, mode=geometry.fit)


def logit_error(session: Session, wanted: Mapping[str, npt.NDArray[np.float32]]) -> float:
    """Largest error of a logit of an engine against PyTorch's, over the largest of these.

    Raises:
        UserError: PyTorch's are of other images or classes, or a logit is not finite.
    """
    geometry = session.contract.geometry
    found = samples(Manifest.load(paths.PREPARED))
    return relative_error(session, found, wanted, size=geometry.size, mode=geometry.fit)


def require_classes(manifest: Manifest, contract: Contract, what: str) -> None:
    """Refuse an engine of other classes than the data's.

    Raises:
        UserError: the engine was made for other classes.
    """
    if list(manifest.info.classes) != contract.classes:
        raise UserError(
            f"{what} knows the classes {', '.join(contract.classes)}; {paths.PREPARED} has "
            f"{', '.join(manifest.info.classes)}: export the network again (dvc repro)"
        )


def save(
    folder: Path,
    evaluation: Evaluation,
    maps_name: str,
    *,
    logits: Mapping[str, npt.NDArray[np.float32]] | None = None,
) -> None:
    """Write score.json and the class maps in one step; the reference's `logits` beside them."""
    with atomic_folder(folder) as temporary:
        if logits is not None:
            save_maps(temporary / LOGITS, logits)
        write_json(temporary / SCORE, evaluation.score.model_dump(mode="json"))
        save_maps(temporary / maps_name, evaluation.maps)
