from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from little_net import CLASSES, pictures
from onnx import TensorProto, helper, numpy_helper

from afdcd.errors import UserError
from deploy import graph
from deploy.bundle import CLASS_MAP, LOGITS
from deploy.export import Exported
from deploy.precision import Narrow, emulated, typed, variant
from deploy.quantize import Typed

pytestmark = pytest.mark.xdist_group("little")
KINDS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def _run(model: onnx.ModelProto, images: npt.NDArray[np.uint8], *, optimised: bool = True) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(graph.to_bytes(model), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


def _types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    made = {value.name: value.type.tensor_type.elem_type for value in values}
    return made | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_convolutions_are_narrow_and_the_ends_are_not(dynamic: Exported, precision: Narrow) -> None:
    for name, content in variant(dynamic.files, precision).items():
        model, source = onnx.load_from_string(content), onnx.load_from_string(dynamic.files[name])
        kinds = _types(model)
        weighted = [node for node in model.graph.node if node.op_type in ("Conv", "MatMul")]
        assert weighted
        for node in weighted:
            assert {kinds[value] for value in (*node.input, *node.output)} == {KINDS[precision]}
        assert [value.type for value in model.graph.input] == [value.type for value in source.graph.input]
        assert [value.type for value in model.graph.output] == [value.type for value in source.graph.output]
        assert list(model.metadata_props) == list(source.metadata_props)
        for node in model.graph.node:
            if node.op_type in ("Sub", "ArgMax") and node.input[0] in ("permute", "logits"):
                assert kinds[node.input[0]] == TensorProto.FLOAT
        assert graph.opset(model) == (22 if precision == "bf16" else 20)
    assert variant(dynamic.files, precision) == variant(dynamic.files, precision)


@pytest.mark.parametrize(("precision", "error"), [("fp16", 4e-3), ("bf16", 4e-2)])
def test_a_typed_graph_computes_the_same_as_far_as_its_type_goes(
    dynamic: Exported, precision: Narrow, error: float
) -> None:
    source = onnx.load_from_string(dynamic.files[LOGITS])
    made = typed(source, precision)
    images = pictures(range(2))[:, :24, :41]
    wanted = _run(source, images)
    found = _run(emulated(made), images, optimised=False)
    assert found.shape == wanted.shape and found.dtype == np.float32 and found.shape[1] == len(CLASSES)
    relative = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert 1e-5 < relative < error
    if precision == "fp16":
        assert np.abs(_run(made, images) - wanted).max() / np.abs(wanted).max() < error


def test_emulation_rounds_every_narrow_tensor(dynamic: Exported) -> None:
    made = typed(onnx.load_from_string(dynamic.files[CLASS_MAP]), "bf16")
    plain = emulated(made)
    convolution = next(node for node in plain.graph.node if node.op_type == "Conv")
    (first,) = [node for node in plain.graph.node if node.input[:1] == convolution.output]
    (second,) = [node for node in plain.graph.node if node.input[:1] == first.output]
    assert (first.op_type, first.attribute[0].i) == ("Cast", TensorProto.BFLOAT16)
    assert (second.op_type, second.attribute[0].i) == ("Cast", TensorProto.FLOAT)
    assert all(tensor.data_type != TensorProto.BFLOAT16 for tensor in plain.graph.initializer)


def test_a_quantised_graph_keeps_its_integers_and_narrows_its_scales(int8: Typed, exported: Exported) -> None:
    source = onnx.load_from_string(int8.files[LOGITS])
    made = typed(source, "fp16")
    kinds = _types(made)
    convolutions = [node for node in made.graph.node if node.op_type == "Conv"]
    makers = {name: node for node in made.graph.node for name in node.output}
    for node in convolutions:
        assert [makers[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
        assert kinds[makers[node.input[1]].input[1]] == TensorProto.FLOAT16
    integers = {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32}
    count = {kind: sum(tensor.data_type == kind for tensor in source.graph.initializer) for kind in integers}
    assert count == {kind: sum(t.data_type == kind for t in made.graph.initializer) for kind in integers}
    wanted = _run(source, pictures(range(1)), optimised=False)
    found = _run(made, pictures(range(1)), optimised=False)
    assert np.abs(found - wanted).max() / np.abs(wanted).max() < 0.05


def _convolution(weight: float, kind: str = "Conv") -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node(kind, ["x", "w"] if kind == "Conv" else ["x"], ["y"]),
    ]
    ends = (
        helper.make_tensor_value_info("images", TensorProto.UINT8, [1, 1, 4, 4]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 4, 4]),
    )
    weights = [numpy_helper.from_array(np.full((1, 1, 1, 1), weight, np.float32), "w")]
    made = helper.make_graph(nodes, "g", [ends[0]], [ends[1]], weights if kind == "Conv" else [])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_a_weight_beyond_fp16_is_refused_and_fits_bf16() -> None:
    with pytest.raises(UserError, match=r"the constant 'w' reaches 7e\+04, fp16 ends at 65504; take bf16"):
        typed(_convolution(7e4), "fp16")
    typed(_convolution(7e4), "bf16")
    images = np.full((1, 1, 4, 4), 3, np.uint8)
    narrow = typed(_convolution(2.0), "fp16")
    np.testing.assert_array_equal(_run(narrow, images), np.full((1, 1, 4, 4), 6.0, np.float32))


def test_a_graph_without_weights_has_nothing_to_narrow() -> None:
    with pytest.raises(UserError, match="nothing to narrow"):
        typed(_convolution(1.0, "Relu"), "fp16")
