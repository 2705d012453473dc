"""INT8 as TensorRT wants it, by the maintained tool: signed symmetric activations and weights, float bias."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)


class _Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, images: npt.NDArray[np.uint8]) -> None:
        self._feeds = iter([{name: image[None]} for image in images])

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        return next(self._feeds, None)


def symmetric(content: bytes, images: npt.NDArray[np.uint8]) -> bytes:
    """The graph with Q/DQ nodes around its convolutions, ranges from `images` (N, H, W, 3)."""
    model = onnx.load_from_string(content)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            target,
            _Images(model.graph.input[0].name, images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=["Conv"],
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
        )
        return target.read_bytes()
