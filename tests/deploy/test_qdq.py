from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from little_net import pictures
from onnx import numpy_helper

from deploy import qdq
from deploy.bundle import CLASS_MAP, LOGITS
from deploy.export import Exported
from deploy.quantize import Typed

pytestmark = pytest.mark.xdist_group("little")


def _run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": images})[0])


def _logits(exported: Exported) -> onnx.ModelProto:
    return onnx.load_from_string(exported.files[LOGITS])


def test_flat_normalisation_is_bit_for_bit_the_same(exported: Exported) -> None:
    model = _logits(exported)
    flat = qdq.flatten_normalisation(model)
    onnx.checker.check_model(flat, full_check=True)
    kinds = [node.op_type for node in flat.graph.node]
    assert [kind for kind in kinds if kind != "Shape"][:6] == [
        *("Cast", "Reshape", "Sub", "Div", "Reshape", "Transpose")
    ]
    images = pictures(range(3))
    np.testing.assert_array_equal(_run(flat, images), _run(model, images))


def test_a_graph_without_that_pattern_is_left_alone(exported: Exported) -> None:
    model = _logits(exported)
    for tensor in model.graph.initializer:
        if list(tensor.dims) == [1, 3, 1, 1]:
            tensor.dims[:] = [3, 1, 1]
    assert qdq.flatten_normalisation(model) is model
    free = _logits(exported)
    free.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "width"
    assert qdq.flatten_normalisation(free) is free


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_ranges_cover_what_the_images_show(exported: Exported, method: str) -> None:
    model = _logits(exported)
    images = pictures(range(6))
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    normalised = first.input[0]
    seen = qdq.ranges(model, images, method=method, percentile=99.9, what="test")[normalised].range_value
    low, high = (float(np.asarray(end).item()) for end in seen)
    real = (images.astype(np.float64) - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    if method == "minmax":
        assert (low, high) == pytest.approx((real.min(), real.max()), abs=1e-4)
    else:
        assert real.min() - 0.01 <= low < -1 and 1 < high <= real.max() + 0.01
        assert abs(low + high) > 1e-3, "a symmetric range wastes steps"


def test_ranges_do_not_depend_on_how_images_are_grouped(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = _logits(exported), pictures(range(6))
    found = []
    for chunk in (1, 4):
        monkeypatch.setattr(qdq, "_CHUNK", chunk)
        found.append(qdq.ranges(model, images, method="minmax", percentile=99.9, what="test").data)
    for name, value in found[0].items():
        np.testing.assert_array_equal(value.range_value, found[1][name].range_value)


def test_activations_are_u8_and_weights_s8_for_each_channel(int8: Typed) -> None:
    model = onnx.load_from_string(int8.files[CLASS_MAP])
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 4
    for node in convolutions:
        activation, weight = makers[node.input[0]], makers[node.input[1]]
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        assert tensors[activation.input[2]].dtype == np.uint8
        assert tensors[weight.input[0]].dtype == np.int8
        assert tensors[weight.input[1]].shape == (tensors[weight.input[0]].shape[0],)
        assert not tensors[weight.input[2]].any()


def test_the_ends_stay_in_float(int8: Typed) -> None:
    model = onnx.load_from_string(int8.files[CLASS_MAP])
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "ArgMax":
            assert makers[node.input[0]] == "Resize"
        if node.op_type in ("Sub", "Div"):
            assert makers[node.input[0]] != "DequantizeLinear"
