"""From the exported graphs to a target's precision; INT8 candidates are judged on val, never on test."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from afdcd.errors import UserError
from afdcd.geometry import fit
from deploy import graph, qdq
from deploy.bundle import CLASS_MAP, LOGITS, PROGRAM, Contract, Pixels
from deploy.config import Config, Precision, QuantizeConfig
from deploy.evaluate import Evaluation, Sample, evaluate
from deploy.parity import compare
from deploy.presets import PRESETS
from deploy.progress import track
from deploy.sessions import Session, open_backend

Files = dict[str, bytes]

_COMPARED = 8
"""Val images whose logits are compared; class maps are compared on all."""


class Candidate(Config):
    """One way to calibrate, and what it costs on val against the float graph.

    Attributes:
        miou: on val, 0..1.
        agreement: share of val pixels with the float graph's class.
        sqnr_db: power of the float logits over that of the difference, dB; None when there is none.
    """

    name: str
    miou: float
    agreement: float
    sqnr_db: float | None


class Quantisation(Config):
    """What was done to reach the target's precision.

    Attributes:
        preset: "none" where the exported graph is used as it is.
        chosen: name of the candidate that was best on val.
        float_miou: of the float graph on the same val images.
        calibration_sha256: of the calibration images at input size.
        operators: the kinds that were quantised.
    """

    precision: str
    preset: str
    chosen: str | None
    candidates: list[Candidate]
    float_miou: float | None
    val_images: int
    calibration_images: int
    calibration_sha256: str | None
    operators: list[str]


class Typed(NamedTuple):
    """The content of the files for a target, and the record of how they came about."""

    files: Files
    record: Quantisation


def unchanged(exported: Mapping[str, bytes], backend: str, precision: Precision = "fp32") -> Typed:
    """The exported files that a backend runs in that precision without a change, byte for byte."""
    names = (PROGRAM,) if backend.startswith("pytorch") else (CLASS_MAP, LOGITS)
    record = Quantisation(
        precision=precision,
        preset=PRESETS[backend, precision],
        chosen=None,
        candidates=[],
        float_miou=None,
        val_images=0,
        calibration_images=0,
        calibration_sha256=None,
        operators=[],
    )
    return Typed({name: exported[name] for name in names}, record)


def quantize(
    exported: Mapping[str, bytes],
    contract: Contract,
    *,
    calibration: npt.NDArray[np.uint8],
    validation: Sequence[Sample],
    settings: QuantizeConfig,
    threads: int,
) -> Typed:
    """INT8 for ONNX Runtime: calibrate each candidate, judge it on val, keep the best.

    The best has the highest mIoU in tenths of a point, then the highest agreement with the float graph. Both
    twins come from one quantised graph, so that their scales are the same.

    Args:
        exported: class_map.onnx and logits.onnx in float.
        contract: what they take and give.
        calibration: training images at input size, (N, H, W, 3).
        validation: val images with labels, at their own sizes.
        settings: the candidates.
        threads: CPU threads for judging.

    Raises:
        UserError: no calibration images or no val images.
    """
    if not len(calibration) or not validation:
        raise UserError(
            f"{contract.model}: INT8 needs calibration images (got {len(calibration)}) and val images "
            f"(got {len(validation)}); see deploy.quantize in params.yaml and the splits of the data"
        )
    model = qdq.flatten_normalisation(onnx.load_from_string(exported[CLASS_MAP]))
    logits = onnx.load_from_string(exported[LOGITS]).graph.output[0]
    judge = _Judge(contract, exported, validation, threads)
    made: dict[str, Files] = {}
    scores: list[Candidate] = []
    for name in settings.candidates:
        ranges = qdq.ranges(
            model,
            calibration,
            method=name,
            percentile=settings.percentile,
            what=f"{contract.model}: {name} calibration",
        )
        made[name] = _twins(qdq.insert(model, ranges), logits)
        scores.append(judge(name, made[name]))
    best = max(scores, key=lambda candidate: (round(candidate.miou, 3), candidate.agreement))
    record = Quantisation(
        precision="int8",
        preset=PRESETS["onnxruntime", "int8"],
        chosen=best.name,
        candidates=scores,
        float_miou=judge.float_miou,
        val_images=len(validation),
        calibration_images=len(calibration),
        calibration_sha256=hashlib.sha256(calibration.tobytes()).hexdigest(),
        operators=list(qdq.OPERATORS),
    )
    return Typed(made[best.name], record)


def _twins(model: onnx.ModelProto, logits: onnx.ValueInfoProto) -> Files:
    """Both files of one quantised graph: its class map, and the logits that lie before the argmax."""
    clean = graph.canonical(model)
    return {
        CLASS_MAP: graph.to_bytes(graph.with_output(clean, clean.graph.output[0])),
        LOGITS: graph.to_bytes(graph.with_output(clean, logits)),
    }


class _Judge:
    """Scores graphs on val against the float graph, whose own score and class maps are made once."""

    def __init__(
        self, contract: Contract, exported: Mapping[str, bytes], validation: Sequence[Sample], threads: int
    ) -> None:
        self._contract = contract
        self._validation = validation
        self._threads = threads
        self._float = self._open(exported)
        scored = self._evaluate(self._float, "float", None)
        self._maps = scored.maps
        self.float_miou = scored.score.miou

    def __call__(self, name: str, files: Files) -> Candidate:
        """The candidate's cost on val."""
        geometry = self._contract.geometry
        part = [
            fit(sample.image, geometry.size, geometry.fit).image for sample in self._validation[:_COMPARED]
        ]
        with self._open(files) as session:
            score = self._evaluate(session, name, self._maps).score
            parity = compare(self._float, session, np.stack(part))
        assert score.agreement is not None  # a reference was given
        return Candidate(name=name, miou=score.miou, agreement=score.agreement, sqnr_db=parity.sqnr_db)

    def _open(self, files: Mapping[str, bytes]) -> Session:
        return open_backend("onnxruntime", self._contract, files.__getitem__, threads=self._threads)

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
