"""INT8 for ONNX Runtime on a CPU: static Q/DQ nodes, uint8 activations, int8 weights a channel.

The maintained tool (`onnxruntime.quantization`) does the work. Its defaults are not ours in three points:
`percentile` there makes ranges symmetric, which halves the steps that are left after a ReLU; `entropy` there
has as many bins as quantised bins, which makes it MinMax; and images are collected a few at a time, since
histograms otherwise keep every activation of every image in memory.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QDQQuantizer, QuantType
from onnxruntime.quantization.calibrate import create_calibrator

from deploy.graph import with_output
from deploy.progress import track

OPERATORS = ("Conv", "Relu", "Clip", "Add", "Concat", "MaxPool")
"""Quantised; the rest stays in float. Each of them made a narrow ResNet-18 or a MobileNetV2 at 96x192 faster
(Clip, a ReLU6, by a quarter); ReduceMean and Expand did not. The final Resize and ArgMax decide classes."""

_BINS = 2048
_CHUNK = 4


class _Images(CalibrationDataReader):  # type: ignore[misc]
    """One image a call, as the calibrator asks for them."""

    def __init__(self, name: str, images: npt.NDArray[np.uint8]) -> None:
        self._feeds: Iterator[dict[str, Any]] = iter([{name: image[None]} for image in images])

    def get_next(self) -> dict[str, Any] | None:
        """The next feed, or None after the last."""
        return next(self._feeds, None)


def ranges(
    model: onnx.ModelProto,
    images: npt.NDArray[np.uint8],
    *,
    method: str,
    percentile: float,
    what: str,
) -> Any:
    """Value ranges of all tensors that will be quantised, seen on `images` (N, H, W, 3).

    Args:
        model: the float graph.
        images: at the graph's input size.
        method: minmax, percentile or entropy.
        percentile: share of values inside the range, 50..100; for `percentile` only.
        what: its name in the progress bar.
    """
    kind, options = {
        "minmax": (CalibrationMethod.MinMax, {}),
        "percentile": (
            CalibrationMethod.Percentile,
            {"percentile": percentile, "num_bins": _BINS, "symmetric": False},
        ),
        "entropy": (CalibrationMethod.Entropy, {"num_bins": _BINS, "num_quantized_bins": 128}),
    }[method]
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        path = Path(folder) / "float.onnx"
        onnx.save(model, path)
        augmented = str(Path(folder) / "augmented.onnx")
        calibrator = create_calibrator(
            path, list(OPERATORS), augmented, calibrate_method=kind, extra_options=options
        )
        starts = range(0, len(images), _CHUNK)
        for start in track(starts, what, len(starts)):
            calibrator.collect_data(_Images(model.graph.input[0].name, images[start : start + _CHUNK]))
        return calibrator.compute_data()


def insert(model: onnx.ModelProto, tensor_ranges: Any) -> onnx.ModelProto:
    """The graph with Q/DQ nodes at the given ranges."""
    quantizer = QDQQuantizer(
        model=onnx.shape_inference.infer_shapes(model),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=tensor_ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=list(OPERATORS),
        extra_options={},
    )
    quantizer.quantize_model()
    quantised: onnx.ModelProto = quantizer.model.model
    return quantised


def flatten_normalisation(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with the normalisation done on (B, H, W * 3) before the transpose, where it finds one.

    Quantised convolutions run in NHWC, so ONNX Runtime moves the transpose behind the normalisation, which
    then broadcasts three values along the innermost axis: 20 times slower, a fifth of a narrow network's
    time. Over whole rows the very same arithmetic is as fast as in NCHW.
    """
    flat = onnx.ModelProto()
    flat.CopyFrom(model)
    nodes = list(flat.graph.node)
    transpose = next((node for node in nodes if node.op_type == "Transpose"), None)
    size = [dim.dim_value for dim in flat.graph.input[0].type.tensor_type.shape.dim[1:3]]
    if transpose is None or not all(size):
        return model
    constants = {tensor.name: tensor for tensor in flat.graph.initializer}
    chain = list(_channelwise(nodes, transpose.output[0], constants))
    if not chain:
        return model
    steps: list[onnx.NodeProto] = []
    value = transpose.input[0]

    def step(kind: str, constant: npt.NDArray[Any], **attributes: Any) -> None:
        nonlocal value
        name = f"flat_{len(steps)}"
        flat.graph.initializer.append(numpy_helper.from_array(constant, f"{name}_constant"))
        steps.append(helper.make_node(kind, [value, f"{name}_constant"], [name], name=name, **attributes))
        value = name

    step("Reshape", np.array([0, 0, -1], dtype=np.int64))
    for node in chain:
        step(node.op_type, np.tile(numpy_helper.to_array(constants[node.input[1]]).reshape(3), size[1]))
    step("Reshape", np.array([0, *size, 3], dtype=np.int64))
    last = helper.make_node("Transpose", [value], list(chain[-1].output), name="flat", perm=[0, 3, 1, 2])
    place = nodes.index(transpose)
    kept = [node for node in nodes[place + 1 :] if node not in chain]
    del flat.graph.node[:]
    flat.graph.node.extend([*nodes[:place], *steps, last, *kept])
    return with_output(flat, flat.graph.output[0])


def _channelwise(
    nodes: Iterable[onnx.NodeProto], value: str, constants: dict[str, onnx.TensorProto]
) -> Iterator[onnx.NodeProto]:
    """The run of arithmetic with one constant a channel, (1, 3, 1, 1), that starts at `value`."""
    for node in nodes:
        if value not in node.input:
            continue
        constant = constants.get(node.input[1]) if len(node.input) == 2 else None
        if (
            node.op_type not in ("Sub", "Div", "Add", "Mul")
            or node.input[0] != value
            or constant is None
            or list(constant.dims) != [1, 3, 1, 1]
        ):
            return
        yield node
        value = node.output[0]
