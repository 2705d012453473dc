from __future__ import annotations

import numpy as np
import onnx
import pytest
from little_net import pictures
from onnx import numpy_helper

from deploy.archive import load_program
from deploy.bisect import against_program, between
from deploy.bundle import LOGITS, PROGRAM
from deploy.export import Exported
from deploy.precision import typed

pytestmark = pytest.mark.xdist_group("little")
LIMIT = 1e-4


def _model(exported: Exported) -> onnx.ModelProto:
    return onnx.load_from_string(exported.files[LOGITS])


def _altered(exported: Exported, weight: str) -> onnx.ModelProto:
    """The graph with one filter of a convolution in its middle half as strong again."""
    model = _model(exported)
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == weight]
    values = numpy_helper.to_array(tensor).copy()
    values[3] *= 1.5
    tensor.CopyFrom(numpy_helper.from_array(values, weight))
    return model


def _made_with(model: onnx.ModelProto, weight: str) -> str:
    (node,) = [node for node in model.graph.node if weight in node.input]
    return str(node.output[0])


def test_a_planted_fault_is_named_against_pytorch(dynamic: Exported) -> None:
    weight = "network.tail.0.weight"
    model = _altered(dynamic, weight)
    program = load_program(dynamic.files[PROGRAM])
    images = pictures(range(1))[:, :, :43]
    found = against_program(program, model, dynamic.contract, images, limit=LIMIT)
    assert found is not None and found.relative_error > 0.01
    assert (found.tensor, found.operator) == (_made_with(model, weight), "Conv")
    assert weight in found.weights and weight in found.sentence()
    # The same program, the graph as it was exported: every tensor is right, the pooling matrices too.
    assert against_program(program, _model(dynamic), dynamic.contract, images, limit=LIMIT) is None


@pytest.mark.parametrize(
    "weight", ["network.stem.0.weight", "network.body.0.weight", "network.level.0.weight"]
)
def test_a_planted_fault_is_named_between_graphs(dynamic: Exported, weight: str) -> None:
    model = _altered(dynamic, weight)
    found = between(_model(dynamic), model, pictures(range(1)), limit=LIMIT)
    assert found is not None and found.tensor == _made_with(model, weight)


def test_a_branch_after_the_fault_that_is_right_hides_nothing(dynamic: Exported) -> None:
    """The pooled branch is made after the tail, and must not be taken for the place of a fault before it."""
    model = _model(dynamic)
    (node,) = [node for node in model.graph.node if "network.body.0.weight" in node.input]
    (add,) = [other for other in model.graph.node if other.op_type == "Add" and _feeds(model, node, other)]
    add.op_type = "Sub"
    found = between(_model(dynamic), model, pictures(range(1)), limit=LIMIT)
    assert found is not None and (found.tensor, found.operator) == (add.output[0], "Sub")


def _feeds(model: onnx.ModelProto, node: onnx.NodeProto, other: onnx.NodeProto) -> bool:
    relus = [user for user in model.graph.node if node.output[0] in user.input]
    return any(relu.output[0] in other.input for relu in relus)


def test_values_that_are_not_finite_are_named(dynamic: Exported) -> None:
    model = _altered(dynamic, "network.body.0.weight")
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == "network.body.0.weight"]
    values = numpy_helper.to_array(tensor).copy()
    values[0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    found = between(_model(dynamic), model, pictures(range(1)), limit=LIMIT)
    assert found is not None and found.tensor == _made_with(model, tensor.name)


def test_a_narrow_type_parts_at_its_first_convolution(dynamic: Exported) -> None:
    model = typed(_model(dynamic), "fp16")
    images = pictures(range(1))
    found = between(_model(dynamic), model, images, limit=1e-6)
    assert found is not None and found.operator == "Conv" and found.tensor == "getitem"
    assert between(_model(dynamic), model, images, limit=0.05) is None
