"""INT8 for OpenVINO by its own quantiser, NNCF, in OpenVINO's own format: a graph (.xml), its weights (.bin).

Its preset `mixed` is symmetric after a ReLU and asymmetric elsewhere, as OpenVINO's CPU kernels have it.
"""

from __future__ import annotations

import io
import logging
import re
import tempfile
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import nncf
import numpy as np
import numpy.typing as npt
import openvino as ov
from nncf.quantization import range_estimator as estimators
from nncf.telemetry import decorator
from nncf.telemetry.wrapper import NNCFTelemetryStub

from deploy.bundle import CLASS_MAP, LOGITS, ir_names
from deploy.config import Calibration
from deploy.openvino_core import core, kept_signal_stack

_NUMBERED = re.compile(r"[A-Z]\w*_\d+")
"""Names that OpenVINO gives by counting all that the process ever made."""


class Quantised(NamedTuple):
    """Files of a bundle, and the kinds of operators that compute in integers."""

    files: dict[str, bytes]
    operators: list[str]


def quantise(
    content: bytes,
    images: npt.NDArray[np.uint8],
    *,
    logits: str,
    method: Calibration,
    percentile: float,
    keep: Iterable[str] = (),
) -> Quantised:
    """Both twins of one quantised graph, so that their scales are the same.

    Args:
        content: of class_map.onnx in float.
        images: at the graph's input size, (N, H, W, 3).
        logits: name of the tensor before the argmax.
        method: minmax or percentile; NNCF has no entropy.
        percentile: share of values inside the range, 50..100; for `percentile` only.
        keep: names of convolutions in the ONNX graph that stay in float.
    """
    model = core().read_model(content)
    kept = set(keep)
    # A convolution with a bias becomes two operators; the product has a name of its own.
    ignored = [
        operator.get_friendly_name()
        for operator in model.get_ops()
        if operator.get_friendly_name().removesuffix("/WithoutBiases") in kept
    ]
    # Its messages and bars go to streams that others read; and no use of it is reported to its maker.
    decorator.telemetry = NNCFTelemetryStub()
    nncf.set_log_level(logging.ERROR)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), kept_signal_stack():
        quantised = nncf.quantize(
            model,
            nncf.Dataset([image[None] for image in images]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=ignored),
            advanced_parameters=_ranges(method, percentile),
        )
    files = _files(CLASS_MAP, quantised)
    before = next(
        output
        for operator in quantised.get_ops()
        for output in operator.outputs()
        if logits in output.get_names()
    )
    twin = ov.Model([before], quantised.get_parameters(), "network")
    return Quantised({**files, **_files(LOGITS, twin)}, _operators(quantised))


def _ranges(method: Calibration, percentile: float) -> Any:
    """How ranges of activations come from what images show.

    `minmax` is NNCF's own default, the mean over images of each one's extremes: the extremes of all images
    cost a MobileNetV2 of random weights half of its SQNR.
    """
    if method == "minmax":
        return nncf.AdvancedQuantizationParameters()
    end = estimators.StatisticsCollectorParameters(
        statistics_type=estimators.StatisticsType.QUANTILE,
        aggregator_type=estimators.AggregatorType.MEAN,
        quantile_outlier_prob=1 - percentile / 100,
    )
    ranges = estimators.RangeEstimatorParameters(end, end)
    return nncf.AdvancedQuantizationParameters(activations_range_estimator_params=ranges)


def _files(graph: str, model: ov.Model) -> dict[str, bytes]:
    """The model in OpenVINO's format; equal models give equal bytes."""
    for number, operator in enumerate(model.get_ordered_ops()):
        if _NUMBERED.fullmatch(operator.get_friendly_name()):
            operator.set_friendly_name(f"{operator.get_type_name()}_{number}")
    with tempfile.TemporaryDirectory() as folder:
        ov.save_model(model, Path(folder) / ir_names(graph)[0], compress_to_fp16=False)
        return {name: (Path(folder) / name).read_bytes() for name in ir_names(graph)}


def _operators(model: ov.Model) -> list[str]:
    """Kinds of operators behind a quantised value."""
    return sorted(
        {
            target.get_node().get_type_name()
            for operator in model.get_ops()
            if operator.get_type_name() == "FakeQuantize"
            for target in operator.output(0).get_target_inputs()
        }
    )
