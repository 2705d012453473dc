from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from afdcd.errors import UserError
from deploy import graph
from deploy.bundle import Range


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
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    model.graph.node[0].attribute[0].type = onnx.AttributeProto.STRING
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


@pytest.mark.parametrize("domain", ["", "com.example"])
def test_an_unknown_operator_is_named_with_its_node(domain: str) -> None:
    model = _model()
    node = model.graph.node[0]
    node.name, node.op_type, node.domain = "the_culprit", "NoSuchOperator", domain
    operator = f"{domain or 'ai.onnx'}.NoSuchOperator"
    with pytest.raises(
        UserError, match=rf"node 'the_culprit' of the operator {operator}, which ONNX does not"
    ):
        graph.check(model, wanted_opset=20)


def test_an_operator_of_a_later_opset_is_unknown() -> None:
    model = _model()
    model.graph.node[0].op_type = "Swish"
    with pytest.raises(UserError, match="ai.onnx.Swish, which ONNX does not define at opset 20"):
        graph.require_known_operators(model, "it")
    model.opset_import[0].version = 24
    graph.require_known_operators(model, "it")


def test_what_only_training_needs_is_refused() -> None:
    model = _model()
    model.graph.node[0].op_type = "Dropout"
    with pytest.raises(UserError, match="still holds Dropout"):
        graph.check(model, wanted_opset=20)


def test_dimensions_get_their_names_and_steps() -> None:
    limits: dict[str, int | Range] = {
        "batch": Range(min=1, max=None),
        "height": Range(min=8, max=64, multiple=8),
        "width": 5,
    }
    for shape, first in ((["s0", "s1", 5, 3], False), (["s0", 3, "s1", 5], True)):
        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        graph.name_dimensions(value, limits, channels_first=first)
        dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert dims == (["batch", 3, "8*height8", 5] if first else ["batch", "8*height8", 5, 3])


def _external(folder: Path) -> Path:
    weight = numpy_helper.from_array(np.ones((2000,), np.float32), "w")
    node = helper.make_node("Add", ["x", "w"], ["y"], name="add")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2000]) for name in "xy"]
    made = helper.make_model(helper.make_graph([node], "g", values[:1], values[1:], [weight]))
    path = folder / "net.onnx"
    onnx.save(made, path, save_as_external_data=True, location="net.weights")
    return path


def test_weights_in_another_file_are_read(tmp_path: Path) -> None:
    model = graph.load(_external(tmp_path))
    assert numpy_helper.to_array(model.graph.initializer[0]).sum() == 2000


def test_weights_in_a_missing_file_are_named(tmp_path: Path) -> None:
    path = _external(tmp_path)
    (tmp_path / "net.weights").unlink()
    with pytest.raises(UserError, match=r"keeps weights in the file net\.weights, which is not beside it"):
        graph.load(path)


def test_weights_cut_short_are_refused(tmp_path: Path) -> None:
    path = _external(tmp_path)
    weights = tmp_path / "net.weights"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match=r"the weights of .*net\.onnx cannot be read"):
        graph.load(path)


@pytest.mark.parametrize("content", [b"", b"no ONNX at all"])
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(UserError, match="does not exist"):
        graph.load(path)
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged or no ONNX file"):
        graph.load(path)


def test_nodes_are_put_behind_what_they_read_and_else_keep_their_order() -> None:
    model = _model()
    wanted = [node.output[0] for node in model.graph.node]
    assert [node.output[0] for node in graph.in_order(model).graph.node] == wanted
    mixed = onnx.ModelProto()
    mixed.CopyFrom(model)
    del mixed.graph.node[:]
    mixed.graph.node.extend(reversed(model.graph.node))
    given = {"images", *(tensor.name for tensor in model.graph.initializer)}
    made = set(given)
    for node in graph.in_order(mixed).graph.node:
        assert made.issuperset(node.input)
        made.update(node.output)
    assert made == {*given, *wanted}
