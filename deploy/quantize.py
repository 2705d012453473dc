"""From the exported graphs to a target's precision; INT8 candidates are judged on val, never on test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import onnx

from afdcd.errors import UserError
from deploy import graph, hardware, precision, qdq, sensitivity
from deploy.bundle import CLASS_MAP, LOGITS, PROGRAM, Contract
from deploy.calibration import fingerprint
from deploy.config import Calibration, Precision, QuantizeConfig
from deploy.evaluate import Sample
from deploy.judge import Judge
from deploy.presets import CALIBRATED, PRESETS
from deploy.quantisation import Candidate, Layer, Quantisation

Files = dict[str, bytes]

_TENTH = 1e-3
"""A tenth of a point: so much mIoU or agreement on val decides nothing."""


class Typed(NamedTuple):
    """The content of the files for a target, and the record of how they came about."""

    files: Files
    record: Quantisation


def unchanged(exported: Mapping[str, bytes], backend: str, precision: Precision = "fp32") -> Typed:
    """The exported files that a backend runs in that precision without a change, byte for byte."""
    names = (PROGRAM,) if backend.startswith("pytorch") else (CLASS_MAP, LOGITS)
    return Typed({name: exported[name] for name in names}, _without_images(backend, precision))


def narrowed(exported: Mapping[str, bytes], backend: str, kind: precision.Narrow) -> Typed:
    """Both twins with fp16 or bf16 written into the graph.

    Raises:
        UserError: a weight does not fit.
    """
    return Typed(precision.variant(exported, kind), _without_images(backend, kind))


def quantize(
    exported: Mapping[str, bytes],
    contract: Contract,
    *,
    calibration: npt.NDArray[np.uint8],
    validation: Sequence[Sample],
    settings: QuantizeConfig,
    threads: int,
    backend: str = "onnxruntime",
    labelled: bool = True,
) -> Typed:
    """INT8: each calibration, with and without the most sensitive layers in float; the best on val is kept.

    A tenth of a point decides nothing on so few images. Those compete that lose at most that much more mIoU
    than the least, where more than the float graph's own counts as no loss; of these, those whose agreement
    with the float graph is at most that much below the highest; and of these the fewest layers in float win,
    since they cost time, then the highest SQNR. Both twins come from one quantised graph, so that their
    scales are the same.

    Args:
        exported: class_map.onnx and logits.onnx in float.
        contract: what they take and give.
        calibration: training images at input size, (N, H, W, 3).
        validation: val images with labels, at their own sizes.
        settings: the candidates.
        threads: CPU threads for judging.
        backend: what the graph is for.
        labelled: whether val images have labels; without them agreement and SQNR alone decide.

    Raises:
        UserError: no calibration images or no val images, or no way leads to INT8 for the backend.
    """
    if not len(calibration) or not validation:
        raise UserError(
            f"{contract.model}: INT8 needs calibration images (got {len(calibration)}) and val images "
            f"(got {len(validation)}); see deploy.quantize in params.yaml and the splits of the data"
        )
    preset = PRESETS.get((backend, "int8"))
    if preset not in CALIBRATED:
        raise UserError(f"{contract.model}: no way leads to int8 for {backend} in this version")
    for_openvino = preset == "nncf_mixed"
    way: _Way = (_OpenVino if for_openvino else _QuantiseDequantise)(
        exported, contract, calibration, settings, preset
    )
    judged_on = "openvino" if for_openvino else "onnxruntime"
    judge = Judge(contract, exported, validation, backend=judged_on, threads=threads, labelled=labelled)
    made: dict[str, Files] = {}
    scores: list[Candidate] = []
    layers: dict[str, list[Layer]] = {}
    for method in settings.candidates:
        found = way.layers(method, threads) if settings.keep_float else []
        kept = sensitivity.most_sensitive(found, settings.keep_float) if settings.keep_float else []
        for bits, left in product(way.weight_bits, ([], kept) if kept else ([],)):
            name = _name(method, bits, left)
            made[name], layers[name] = way.files(method, left, bits), found
            cost = judge(name, made[name])
            scores.append(Candidate(name=name, kept=left, weight_bits=bits, **cost._asdict()))
    best = _best(scores, judge.float_miou)
    record = Quantisation(
        precision="int8",
        preset=preset,
        chosen=best.name,
        candidates=scores,
        float_miou=judge.float_miou,
        judged_on=judged_on,
        val_images=len(validation),
        calibration_images=len(calibration),
        calibration_sha256=fingerprint(calibration),
        operators=way.operators(),
        layers=layers[best.name],
        kept=best.kept,
    )
    return Typed(made[best.name], record)


def _best(candidates: Sequence[Candidate], float_miou: float | None) -> Candidate:
    """The candidate that `quantize` keeps."""

    def loss(candidate: Candidate) -> float:
        if float_miou is None or candidate.miou is None:
            return 0.0
        return max(0.0, float_miou - candidate.miou)

    least = min(map(loss, candidates))
    equal = [candidate for candidate in candidates if loss(candidate) <= least + _TENTH]
    most = max(candidate.agreement for candidate in equal)
    equal = [candidate for candidate in equal if candidate.agreement >= most - _TENTH]

    def merit(candidate: Candidate) -> tuple[int, float]:
        return -len(candidate.kept), np.inf if candidate.sqnr_db is None else candidate.sqnr_db

    return max(equal, key=merit)


def _name(method: Calibration, weight_bits: int, kept: Sequence[str]) -> str:
    """A candidate for people: `minmax`, `minmax, 7-bit weights, 3 in float`."""
    parts = ["7-bit weights"] * (weight_bits == 7) + [f"{len(kept)} in float"] * bool(kept)
    return ", ".join([method, *parts])


def _without_images(backend: str, precision: Precision) -> Quantisation:
    return Quantisation(
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


class _Way(Protocol):
    """A quantiser with the graph and the images that it was given.

    Attributes:
        weight_bits: to be tried.
    """

    weight_bits: Sequence[int]

    def layers(self, method: Calibration, threads: int) -> list[Layer]:
        """The layers, the most sensitive first."""
        ...

    def files(self, method: Calibration, keep: Sequence[str], weight_bits: int) -> Files:
        """Both twins, with the named layers in float."""
        ...

    def operators(self) -> list[str]:
        """Kinds that were quantised."""
        ...


class _QuantiseDequantise:
    """onnxruntime's quantiser."""

    def __init__(
        self,
        exported: Mapping[str, bytes],
        contract: Contract,
        images: npt.NDArray[np.uint8],
        settings: QuantizeConfig,
        preset: str,
    ) -> None:
        self._scheme = qdq.SCHEMES[preset]
        model = onnx.load_from_string(exported[CLASS_MAP])
        self._model = qdq.flatten_normalisation(model) if self._scheme is qdq.U8S8 else model
        self._logits = onnx.load_from_string(exported[LOGITS]).graph.output[0]
        self._name, self._images, self._percentile = contract.model, images, settings.percentile
        self._ranges: dict[str, Any] = {}
        self.weight_bits: Sequence[int] = (8,)
        if self._scheme is qdq.U8S8:
            both = (8, 7) if hardware.int8_sums_saturate() else (8,)
            self.weight_bits = both if settings.weight_bits == "auto" else settings.weight_bits

    def layers(self, method: Calibration, threads: int) -> list[Layer]:
        """The layers, the most sensitive first."""
        quantised = qdq.insert(self._model, self._seen(method), self._scheme)
        return sensitivity.measure(self._model, quantised, self._images, threads=threads)

    def files(self, method: Calibration, keep: Sequence[str], weight_bits: int) -> Files:
        """The quantised graph's class map, and the logits that lie before the argmax."""
        quantised = qdq.insert(
            self._model, self._seen(method), self._scheme, keep=keep, weight_bits=weight_bits
        )
        model = graph.canonical(quantised)
        outputs = {CLASS_MAP: model.graph.output[0], LOGITS: self._logits}
        return {name: graph.to_bytes(graph.with_output(model, output)) for name, output in outputs.items()}

    def operators(self) -> list[str]:
        """Kinds that were quantised."""
        return list(self._scheme.operators)

    def _seen(self, method: Calibration) -> Any:
        """Ranges of all tensors; they are collected once a method."""
        if method not in self._ranges:
            self._ranges[method] = qdq.ranges(
                self._model,
                self._images,
                method=method,
                percentile=self._percentile,
                what=f"{self._name}: {method} calibration",
                scheme=self._scheme,
            )
        return self._ranges[method]


class _OpenVino:
    """NNCF; layers are ranked by onnxruntime's quantiser, whose integers are of the same kinds."""

    weight_bits: Sequence[int] = (8,)

    def __init__(
        self,
        exported: Mapping[str, bytes],
        contract: Contract,
        images: npt.NDArray[np.uint8],
        settings: QuantizeConfig,
        preset: str,
    ) -> None:
        self._ranking = _QuantiseDequantise(exported, contract, images, settings, "u8s8_per_channel")
        self._content, self._logits = exported[CLASS_MAP], contract.logits
        self._images, self._percentile = images, settings.percentile
        self._operators: set[str] = set()

    def layers(self, method: Calibration, threads: int) -> list[Layer]:
        """The layers, the most sensitive first."""
        return self._ranking.layers(method, threads)

    def files(self, method: Calibration, keep: Sequence[str], weight_bits: int) -> Files:
        """Both twins in OpenVINO's own format."""
        from deploy.nncf_int8 import quantise  # takes PyTorch along, which nothing else here needs

        made = quantise(
            self._content,
            self._images,
            logits=self._logits,
            method=method,
            percentile=self._percentile,
            keep=keep,
        )
        self._operators.update(made.operators)
        return made.files

    def operators(self) -> list[str]:
        """Kinds that were quantised."""
        return sorted(self._operators)
