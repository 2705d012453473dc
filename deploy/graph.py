"""Small surgery on ONNX graphs: one form for equal graphs, one output at a time, and the checks."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from afdcd.errors import UserError

PRODUCER = "afdcd"


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without what differs between machines: stack traces with paths, tool versions, notes.

    Intermediate shapes are dropped too, since loaders infer them; initialisers are sorted by name.
    """
    clean = onnx.ModelProto()
    clean.CopyFrom(model)
    clean.producer_name, clean.producer_version, clean.doc_string, clean.domain = PRODUCER, "", "", ""
    del clean.metadata_props[:]
    graph = clean.graph
    graph.name, graph.doc_string = "network", ""
    del graph.metadata_props[:]
    del graph.value_info[:]
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    initialisers = sorted(graph.initializer, key=lambda tensor: tensor.name)
    del graph.initializer[:]
    graph.initializer.extend(initialisers)
    return clean


def name_batch(model: onnx.ModelProto, name: str = "batch") -> None:
    """Call the first dimension of all inputs and outputs `name`, in place; exporters number it."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = name


def with_output(model: onnx.ModelProto, output: onnx.ValueInfoProto) -> onnx.ModelProto:
    """The model with `output` as its only output, and only the nodes and initialisers that it needs.

    Raises:
        UserError: no node of the graph makes that tensor.
    """
    makers = {name: node for node in model.graph.node for name in node.output if name}
    if output.name not in makers:
        raise UserError(f"the graph has no tensor {output.name!r}")
    needed: set[str] = set()
    pending = [output.name]
    while pending:
        name = pending.pop()
        if name not in needed:
            needed.add(name)
            pending.extend(makers[name].input if name in makers else ())
    pruned = onnx.ModelProto()
    pruned.CopyFrom(model)
    del pruned.graph.node[:], pruned.graph.initializer[:], pruned.graph.output[:]
    pruned.graph.node.extend(node for node in model.graph.node if needed.intersection(node.output))
    pruned.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    pruned.graph.output.append(output)
    return pruned


def to_bytes(model: onnx.ModelProto) -> bytes:
    """The file: equal models give equal bytes."""
    return bytes(model.SerializeToString(deterministic=True))


def opset(model: onnx.ModelProto) -> int:
    """The version of the standard operators that the model asks for."""
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def weight_elements(model: onnx.ModelProto) -> int:
    """Elements of all floating-point initialisers with more than one element: weights and biases."""
    return sum(
        int(onnx.numpy_helper.to_array(tensor).size)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 0
    )


def check(model: onnx.ModelProto, *, wanted_opset: int) -> None:
    """Hold an exported graph against what every engine relies on.

    Raises:
        UserError: the checker refuses it, the opset is not the one asked for, weights lie in another
            file, or the uint8 input is transposed before it is cast (TensorRT's parser refuses that).
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise UserError(f"onnx.checker refuses the exported graph: {error}") from error
    if opset(model) != wanted_opset:
        raise UserError(
            f"asked for opset {wanted_opset}, the exporter produced {opset(model)}; "
            f"set deploy.export.opset to {opset(model)} or to another that it can produce (18 to 24)"
        )
    if any(tensor.external_data for tensor in model.graph.initializer):
        raise UserError("the exported graph keeps weights in a second file; below 2 GB it must be one file")
    for value in model.graph.input:
        users = _users(model.graph.node, value.name)
        if not users <= {"Cast", "Shape"}:
            raise UserError(f"input {value.name!r} goes into {sorted(users)}; it must be cast to float first")


def _users(nodes: Iterable[onnx.NodeProto], name: str) -> set[str]:
    return {node.op_type for node in nodes if name in node.input}
