"""Anyone's ONNX in the form that the tools here expect, and a quantised one back in its own."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.inliner
import onnx.version_converter
from onnx import TensorProto, numpy_helper

from afdcd.errors import UserError
from deploy import graph

_OLDEST = 13
"""The first opset with scales a channel; a graph of an earlier one is converted to `_TAKEN`."""

_TAKEN = 17


def plain(path: Path) -> onnx.ModelProto:
    """An ONNX file with inlined functions, named nodes, and constants among the weights.

    Raises:
        UserError: it cannot be read, holds an operator that ONNX does not define, or is of an opset before
            13 and cannot be converted.
    """
    model = graph.load(path)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    graph.require_known_operators(model, str(path))
    if graph.opset(model) < _OLDEST:
        try:
            model = onnx.version_converter.convert_version(model, _TAKEN)
        except Exception as error:
            raise UserError(
                f"{path} is of opset {graph.opset(model)}, and cannot be converted to {_TAKEN} "
                f"({str(error).strip().splitlines()[0]}); export it with opset_version={_TAKEN}"
            ) from error
    _name_nodes(model.graph)
    _gather_constants(model.graph)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model


def _name_nodes(given: onnx.GraphProto) -> None:
    """Give every node a name of its own, in place."""
    taken: set[str] = set()
    for number, node in enumerate(given.node):
        if not node.name or node.name in taken:
            node.name = f"{node.name or node.op_type}_{number}"
        while node.name in taken:
            node.name += "_"
        taken.add(node.name)


def _gather_constants(given: onnx.GraphProto) -> None:
    """Turn Constant nodes into initialisers, and read through Identity nodes of initialisers, in place."""
    made = [node for node in given.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
    for node in made:
        tensor = TensorProto()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        given.initializer.append(tensor)
        given.node.remove(node)
    tensors = {tensor.name: tensor for tensor in given.initializer}
    for node in [node for node in given.node if node.op_type == "Identity" and node.input[0] in tensors]:
        copy = numpy_helper.from_array(numpy_helper.to_array(tensors[node.input[0]]), node.output[0])
        given.initializer.append(copy)
        tensors[copy.name] = copy
        given.node.remove(node)


def own_interface(
    quantised: onnx.ModelProto, model: onnx.ModelProto, *, output: str, scores: str, reader: str
) -> onnx.ModelProto:
    """The quantised graph with the input and the output of the float one, in place of bytes and class map.

    Args:
        quantised: under the contract.
        model: the float graph as it was.
        output: of `model`.
        scores: the tensor of `model` that the class map is made of.
        reader: the node of `quantised` that reads it, perhaps behind a Q/DQ pair.
    """
    given = model.graph.input[0]
    result = onnx.ModelProto()
    result.CopyFrom(quantised)
    _expose(result.graph, scores, reader)
    # What lies between the scores and the output stays as it was: an argmax, mostly.
    makers = {name for node in result.graph.node for name in node.output}
    known = makers | {tensor.name for tensor in result.graph.initializer}
    result.graph.node.extend(node for node in model.graph.node if not makers.intersection(node.output))
    result.graph.initializer.extend(t for t in model.graph.initializer if t.name not in known)
    kept = [node for node in result.graph.node if given.name not in node.output]
    del result.graph.node[:], result.graph.input[:]
    result.graph.node.extend(kept)
    result.graph.input.append(given)
    value = next(value for value in model.graph.output if value.name == output)
    return graph.canonical(graph.in_order(graph.with_output(result, value)))


def _expose(given: onnx.GraphProto, scores: str, reader: str) -> None:
    """Give the tensor that `reader` reads the name of the scores, in place."""
    read = next(node.input[0] for node in given.node if node.name == reader)
    if read == scores:
        return
    for node in given.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = {scores: f"{scores}_before_rounding", read: scores}.get(name, name)


def holds_quantised(model: onnx.ModelProto) -> bool:
    """Whether a graph computes with quantised values already."""
    return any(node.op_type.startswith(("QuantizeLinear", "QLinear")) for node in graph.nodes(model.graph))


def holds_half(model: onnx.ModelProto) -> bool:
    """Whether a graph holds weights in float16."""
    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in graph.tensors(model.graph))
