"""TensorRT-RTX, which needs no GPU for it, parses and builds the graphs that this project writes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from afdcd.errors import UserError
from deploy.bundle import CLASS_MAP, LOGITS, Range
from deploy.export import Exported
from deploy.precision import variant
from deploy.tensorrt.dry import DryBuild, dry_build
from deploy.tensorrt.profiles import Span, narrowed, span

pytest.importorskip("tensorrt_rtx")
pytestmark = pytest.mark.xdist_group("little")

IMAGE = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
OUTPUT = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 8, 8])


def _graph(*nodes: onnx.NodeProto, given: onnx.ValueInfoProto = IMAGE, **constants: np.ndarray) -> bytes:
    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "g", [given], [OUTPUT], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


def _quantised(zero: np.ndarray) -> bytes:
    return _graph(
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantise"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="back"),
        s=np.float32(0.1),
        z=zero,
    )


@pytest.mark.parametrize("name", [CLASS_MAP, LOGITS])
def test_the_exported_graphs_build(exported: Exported, name: str) -> None:
    told = dry_build(exported.files[name], name, contract=exported.contract)
    assert isinstance(told, DryBuild) and told.package == "tensorrt_rtx"
    assert told.layers > 10 and told.plan_bytes > 10_000 and not told.warnings
    kind, shape = told.outputs["class_map" if name == CLASS_MAP else "logits"]
    expected = ("UINT8", (-1, 32, 64)) if name == CLASS_MAP else ("FLOAT", (-1, 3, 32, 64))
    assert (kind, tuple(shape)) == expected


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_typed_graphs_build(exported: Exported, precision: str) -> None:
    content = variant(exported.files, precision)[CLASS_MAP]  # type: ignore[arg-type]
    told = dry_build(content, CLASS_MAP, contract=exported.contract, precision="fp16")
    assert told.plan_bytes > 10_000 and not told.warnings


def test_unsigned_activations_are_refused(exported: Exported, int8: object) -> None:
    """What ONNX Runtime wants on a CPU, TensorRT would misread or cannot take."""
    content = int8.files[CLASS_MAP]  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="unsigned quantised values as signed"):
        dry_build(content, CLASS_MAP, contract=exported.contract)


def test_a_symmetric_graph_builds() -> None:
    assert dry_build(_quantised(np.int8(0)), "q.onnx").layers


@pytest.mark.parametrize(
    ("zero", "says"),
    [
        (np.uint8(0), "it reads unsigned quantised values as signed ones; quantise with symmetric INT8"),
        (np.uint8(128), "it reads unsigned quantised values as signed ones"),
        (np.int8(3), r"node 'quantise' \(QuantizeLinear\): .*Non-zero zero point is not supported"),
    ],
)
def test_quantised_values_that_it_would_misread_are_refused(zero: np.ndarray, says: str) -> None:
    with pytest.raises(UserError, match=says):
        dry_build(_quantised(zero), "q.onnx")


def test_a_bias_in_int32_is_refused() -> None:
    content = _graph(
        helper.make_node("DequantizeLinear", ["b", "s"], ["bias"], name="its_bias"),
        helper.make_node("Add", ["bias", "x"], ["y"], name="add"),
        b=np.array([3], np.int32),
        s=np.float32(0.1),
    )
    with pytest.raises(UserError, match=r"node 'its_bias' \(DequantizeLinear\): .*input has type Int32"):
        dry_build(content, "q.onnx")


def test_float64_is_refused_though_tensorrt_says_nothing() -> None:
    content = _graph(
        helper.make_node("Cast", ["k"], ["c"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "c"], ["y"], name="add"),
        k=np.array([1 / 3]),
    )
    with pytest.raises(UserError, match="holds the constant 'k' in double, which .* would narrow"):
        dry_build(content, "wide.onnx")


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (
            helper.make_node("Det", ["x"], ["y"], name="its_name"),
            r"cannot take mine.onnx: node 'its_name' \(Det\): it has no such operator",
        ),
        (
            helper.make_node("Own", ["x"], ["y"], name="its_name", domain="mine"),
            r"node 'its_name' \(Own\): it has neither such an operator nor a plugin",
        ),
    ],
)
def test_an_unknown_operator_is_named_with_its_node(node: onnx.NodeProto, says: str) -> None:
    with pytest.raises(UserError, match=says):
        dry_build(_graph(node), "mine.onnx")


def test_a_transpose_of_bytes_is_refused_with_tensorrts_reason() -> None:
    content = _graph(
        helper.make_node("Transpose", ["x"], ["t"], name="turn", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["t"], ["y"], name="cast", to=TensorProto.FLOAT),
        given=helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 8, 8, 3]),
    )
    with pytest.raises(UserError, match=r"node 'turn' \(Transpose\): first input has type UInt8"):
        dry_build(content, "bytes.onnx")


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(UserError, match="no.onnx is damaged or no ONNX file"):
        dry_build(b"no graph", "no.onnx")


def test_a_free_length_needs_shapes(exported: Exported) -> None:
    with pytest.raises(UserError, match=r"input 'images' of class_map.onnx has the free shape \(-1, 32"):
        dry_build(exported.files[CLASS_MAP], CLASS_MAP)


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        (Span((1, 32, 64, 3), (1, 32, 64, 3), (8, 64, 64, 3)), r"which \(8, 64, 64, 3\) does not fit"),
        (Span((1, 32, 64), (1, 32, 64), (8, 32, 64)), r"which \(1, 32, 64\) does not fit"),
        (Span((2, 32, 64, 3), (1, 32, 64, 3), (8, 32, 64, 3)), "is not between least"),
    ],
)
def test_shapes_that_the_graph_cannot_have_are_refused(exported: Exported, shapes: Span, says: str) -> None:
    with pytest.raises(UserError, match=says):
        dry_build(exported.files[CLASS_MAP], CLASS_MAP, spans={"images": shapes})


def test_the_contract_gives_the_shapes(exported: Exported) -> None:
    contract = exported.contract
    assert span(contract) == Span((1, 32, 64, 3), (1, 32, 64, 3), (8, 32, 64, 3))
    assert narrowed(contract, span(contract)).input.batch == Range(min=1, max=8)
    sides = {"height": Range(min=16, max=64, multiple=8), "batch": Range(min=2, max=4)}
    free = contract.model_copy(update={"input": contract.input.model_copy(update=sides)})
    assert span(free) == Span((2, 16, 64, 3), (2, 32, 64, 3), (4, 64, 64, 3))
    open_sides = {"width": Range(min=16, max=None)}
    endless = contract.model_copy(update={"input": contract.input.model_copy(update=open_sides)})
    with pytest.raises(UserError, match="gives the width no upper limit"):
        span(endless)
