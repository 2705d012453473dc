"""Scores quantised graphs on val, or on images without labels, against the float graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from afdcd.geometry import fit
from afdcd.metrics import agreement
from deploy.bundle import Contract, Pixels
from deploy.config import Precision
from deploy.evaluate import Evaluation, Sample, evaluate
from deploy.parity import compare
from deploy.progress import track
from deploy.sessions import Session, open_backend

_COMPARED = 8
"""Val images whose logits are compared; class maps are compared on all."""


class Cost(NamedTuple):
    """What quantisation costs on val; the fields are those of `deploy.quantize.Candidate`."""

    miou: float | None
    agreement: float
    sqnr_db: float | None


class Judge:
    """Runs candidates on one backend; the float graph's own score and class maps are made once."""

    def __init__(
        self,
        contract: Contract,
        exported: Mapping[str, bytes],
        validation: Sequence[Sample],
        *,
        backend: str,
        threads: int,
        labelled: bool = True,
    ) -> None:
        """Score the float graph, in ONNX Runtime.

        Args:
            contract: what the graphs take and give.
            exported: class_map.onnx and logits.onnx in float.
            validation: val images with labels, at their own sizes.
            backend: what candidates run in.
            threads: CPU threads.
            labelled: whether the labels mean anything; without them there is no mIoU.
        """
        self._contract = contract
        self._validation = validation
        self._backend = backend
        self._threads = threads
        self._float = self._open("onnxruntime", exported)
        self._labelled = labelled
        self.float_miou: float | None = None
        if labelled:
            scored = self._evaluate(self._float, "float", None)
            self._maps, self.float_miou = scored.maps, scored.score.miou
        else:
            self._maps = dict(self._class_maps(self._float, "float"))

    def __call__(self, name: str, files: Mapping[str, bytes]) -> Cost:
        """The cost of a candidate; `name` is for the progress bar."""
        geometry = self._contract.geometry
        part = [
            fit(sample.image, geometry.size, geometry.fit).image for sample in self._validation[:_COMPARED]
        ]
        with self._open(self._backend, files, "int8") as session:
            parity = compare(self._float, session, np.stack(part))
            if not self._labelled:
                made = self._class_maps(session, name)
                same = float(np.mean([agreement(found, self._maps[key]) for key, found in made]))
                return Cost(None, same, parity.sqnr_db)
            score = self._evaluate(session, name, self._maps).score
        assert score.agreement is not None  # a reference was given
        return Cost(score.miou, score.agreement, parity.sqnr_db)

    def _open(self, backend: str, files: Mapping[str, bytes], precision: Precision = "fp32") -> Session:
        return open_backend(
            backend, self._contract, files.__getitem__, threads=self._threads, precision=precision
        )

    def _class_maps(self, session: Session, name: str) -> Iterator[tuple[str, Pixels]]:
        """Class maps at input size by sample name."""
        geometry, count = self._contract.geometry, len(self._validation)
        for sample in track(self._validation, f"{self._contract.model}: {name}", count):
            fitted = fit(sample.image, geometry.size, geometry.fit)
            yield sample.name, session.infer(fitted.image[None])[0]

    def _evaluate(self, session: Session, name: str, reference: dict[str, Pixels] | None) -> Evaluation:
        contract = self._contract
        count = len(self._validation)
        return evaluate(
            session,
            track(self._validation, f"{contract.model}: {name} on val", count),
            classes=contract.classes,
            ignore_index=contract.ignore_index,
            size=contract.geometry.size,
            mode=contract.geometry.fit,
            reference=reference,
            gallery=count,
        )
