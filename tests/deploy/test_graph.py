from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from afdcd.errors import UserError
from deploy import graph


def _model(kinds: tuple[str, ...] = ("Cast", "Transpose", "Relu"), opset: int = 20) -> onnx.ModelProto:
    """A chain of operators on a uint8 image, with a side branch that no output needs."""
    attributes = {"Cast": {"to": TensorProto.FLOAT}, "Transpose": {"perm": [0, 3, 1, 2]}, "Relu": {}}
    names = ["images", *(f"t{index}" for index in range(len(kinds)))]
    nodes = [
        helper.make_node(kind, [names[index]], [names[index + 1]], name=f"n{index}", **attributes[kind])
        for index, kind in enumerate(kinds)
    ]
    nodes.append(helper.make_node("Add", [names[-2], "spare"], ["side"], name="side"))
    shapes = {"Relu": [1, 3, 4, 5], "Transpose": [1, 3, 4, 5], "Cast": [1, 4, 5, 3]}
    built = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["b", 4, 5, 3])],
        [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, ["b", *shapes[kinds[-1]][1:]])],
        [numpy_helper.from_array(np.float32([2.0]), "spare")],
    )
    return helper.make_model(built, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def test_notes_and_versions_of_the_machine_go() -> None:
    first, second = _model(), _model()
    for model, tool in ((first, "a"), (second, "b")):
        model.producer_name = model.producer_version = model.doc_string = tool
        helper.set_model_props(model, {"made": tool})
        model.graph.node[0].doc_string = tool
        model.graph.node[0].metadata_props.add(key="stack_trace", value=f"/home/{tool}/x.py")
        model.graph.input[0].metadata_props.add(key="from", value=tool)
        model.graph.value_info.append(helper.make_tensor_value_info("t0", TensorProto.FLOAT, [tool]))
    assert graph.to_bytes(first) != graph.to_bytes(second)
    assert graph.to_bytes(graph.canonical(first)) == graph.to_bytes(graph.canonical(second))
    assert first.producer_name == "a"


def test_one_output_keeps_only_what_it_needs() -> None:
    output = helper.make_tensor_value_info("t1", TensorProto.FLOAT, ["b", 3, 4, 5])
    pruned = graph.with_output(_model(), output)
    assert [node.op_type for node in pruned.graph.node] == ["Cast", "Transpose"]
    assert not pruned.graph.initializer
    onnx.checker.check_model(pruned, full_check=True)


def test_an_output_that_nothing_makes_is_refused() -> None:
    with pytest.raises(UserError, match="no tensor 'missing'"):
        graph.with_output(_model(), helper.make_tensor_value_info("missing", TensorProto.FLOAT, [1]))


def test_a_good_graph_passes_and_another_opset_does_not() -> None:
    good = graph.with_output(_model(), _model().graph.output[0])
    graph.check(good, wanted_opset=20)
    with pytest.raises(UserError, match="asked for opset 21, the exporter produced 20"):
        graph.check(good, wanted_opset=21)


def test_a_transpose_before_the_cast_is_refused() -> None:
    model = _model(("Transpose", "Cast"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("t1", TensorProto.FLOAT, ["b", 3, 4, 5]))
    pruned = graph.with_output(model, model.graph.output[0])
    with pytest.raises(UserError, match=r"input 'images' goes into \['Transpose'\]; it must be cast"):
        graph.check(pruned, wanted_opset=20)


def test_what_the_checker_refuses_is_refused() -> None:
    model = _model()
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(UserError, match="onnx.checker refuses"):
        graph.check(model, wanted_opset=20)


def test_weights_in_a_second_file_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx.checker, "check_model", lambda model, full_check: None)
    model = _model()
    model.graph.initializer[0].external_data.add(key="location", value="weights.bin")
    with pytest.raises(UserError, match="must be one file"):
        graph.check(model, wanted_opset=20)


def test_weights_are_counted_and_constants_are_not() -> None:
    model = _model()
    arrays = {
        "weight": np.zeros((2, 3, 1, 1), np.float32),
        "shape": np.zeros(4, np.int64),
        "one": np.float32(1),
    }
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    assert graph.weight_elements(model) == 6 + 1


def test_the_batch_gets_its_name() -> None:
    model = _model()
    graph.name_batch(model)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
