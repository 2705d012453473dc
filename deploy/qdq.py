"""INT8 by static Q/DQ nodes, with int8 weights a channel, in two schemes.

`U8S8` is for ONNX Runtime's CPU kernels: uint8 activations with a zero point, biases in int32. `S8S8` is for
TensorRT: int8 activations without one, biases in float, and nodes only where TensorRT fuses them: before
convolutions and on the skip branch of additions.

The maintained tool (`onnxruntime.quantization`) does the work. Its defaults are not ours in three points:
`percentile` there makes ranges symmetric, which halves the steps that are left after a ReLU; `entropy` there
has as many bins as quantised bins, which makes it MinMax; and images are collected a few at a time, since
histograms otherwise keep every activation of every image in memory.
"""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QDQQuantizer, QuantType
from onnxruntime.quantization.calibrate import create_calibrator

from deploy.graph import with_output
from deploy.progress import track


class Scheme(NamedTuple):
    """How values become integers.

    Attributes:
        operators: kinds that are quantised; the rest stays in float.
        activations: their type.
        options: of onnxruntime's quantiser, beside its defaults.
        skips_only: of an addition's branches, whether the one that comes from a convolution stays in float.
    """

    operators: tuple[str, ...]
    activations: QuantType
    options: dict[str, Any]
    skips_only: bool


U8S8 = Scheme(("Conv", "Relu", "Clip", "Add", "Concat", "MaxPool"), QuantType.QUInt8, {}, skips_only=False)
"""Each of the operators made a narrow ResNet-18 or a MobileNetV2 at 96x192 faster (Clip, a ReLU6, by a
quarter); ReduceMean and Expand did not. The final Resize and ArgMax decide classes."""

_INPUTS_ONLY = ("Conv", "ConvTranspose", "Add")
S8S8 = Scheme(
    _INPUTS_ONLY,
    QuantType.QInt8,
    {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": list(_INPUTS_ONLY),
    },
    skips_only=True,
)
"""TensorRT moves Q nodes up through what lies between (ReLU, pooling, concatenation) by itself."""

SCHEMES: dict[str, Scheme] = {"u8s8_per_channel": U8S8, "s8s8_symmetric": S8S8}
"""Preset -> scheme."""

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
    scheme: Scheme = U8S8,
) -> Any:
    """Value ranges of all tensors that will be quantised, seen on `images` (N, H, W, 3).

    Args:
        model: the float graph.
        images: at the graph's input size.
        method: minmax, percentile or entropy.
        percentile: share of values inside the range, 50..100; for `percentile` only.
        what: its name in the progress bar.
        scheme: whose operators' tensors are looked at.
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
            path, list(scheme.operators), augmented, calibrate_method=kind, extra_options=options
        )
        starts = range(0, len(images), _CHUNK)
        for start in track(starts, what, len(starts)):
            calibrator.collect_data(_Images(model.graph.input[0].name, images[start : start + _CHUNK]))
        return calibrator.compute_data()


def insert(
    model: onnx.ModelProto,
    tensor_ranges: Any,
    scheme: Scheme = U8S8,
    *,
    keep: Iterable[str] = (),
    weight_bits: int = 8,
) -> onnx.ModelProto:
    """The graph with Q/DQ nodes at the given ranges.

    Args:
        model: the float graph.
        tensor_ranges: what `ranges` gave for the same scheme.
        scheme: how values become integers.
        keep: names of nodes that stay in float.
        weight_bits: 7 or 8 that weights use of theirs.
    """
    quantizer = QDQQuantizer(
        model=onnx.shape_inference.infer_shapes(model),
        per_channel=True,
        reduce_range=weight_bits == 7,
        weight_qType=QuantType.QInt8,
        activation_qType=scheme.activations,
        tensors_range=tensor_ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=list(keep),
        op_types_to_quantize=list(scheme.operators),
        extra_options=scheme.options,
    )
    quantizer.quantize_model()
    quantised: onnx.ModelProto = quantizer.model.model
    if scheme.skips_only:
        _free_convolutions(quantised.graph)
    return quantised


def _free_convolutions(graph: onnx.GraphProto) -> None:
    """Drop the Q/DQ pair between a convolution and an addition, on one branch of each, in place.

    TensorRT fuses convolution, addition and ReLU into one kernel if only the other branch is quantised.
    """
    makers = {name: node for node in graph.node for name in node.output}
    users = Counter(name for node in graph.node for name in node.input)
    dropped: list[onnx.NodeProto] = []
    for addition in (node for node in graph.node if node.op_type == "Add"):
        for place, name in enumerate(addition.input):
            back = makers.get(name)
            into = makers.get(back.input[0]) if back is not None else None
            if back is None or into is None or into.op_type != "QuantizeLinear":
                continue
            source = makers.get(into.input[0])
            alone = users[name] == users[into.output[0]] == users[into.input[0]] == 1
            if alone and source is not None and source.op_type == "Conv":
                addition.input[place] = into.input[0]
                dropped += [into, back]
                break
    for node in dropped:
        graph.node.remove(node)


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
