"""Small surgery on ONNX graphs: one form for equal graphs, one output at a time, and the checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import onnx

from afdcd.errors import UserError
from deploy.bundle import Range

PRODUCER = "afdcd"


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without what differs between machines: stack traces with paths, tool versions, notes.

    Intermediate shapes are dropped too, since loaders infer them; initialisers are sorted by name.
    """
    clean = onnx.ModelProto()
    clean.CopyFrom(model)
    clean.producer_name, clean.producer_version, clean.doc_string, clean.domain = PRODUCER, "", "", ""
    notes = {entry.key: entry.value for entry in clean.metadata_props if entry.key.startswith(PRODUCER)}
    del clean.metadata_props[:]
    onnx.helper.set_model_props(clean, notes)
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


def name_dimensions(
    value: onnx.ValueInfoProto, limits: Mapping[str, int | Range], *, channels_first: bool = False
) -> None:
    """Call the dynamic dimensions of an image-shaped input or output by their names, which exporters number.

    A length that must be a multiple of 8 is called `8*height8`, so that the graph says as much.

    Args:
        value: (B, H, W, ...), or (B, C, H, W); changed in place.
        limits: of batch, height and width, in this order.
        channels_first: whether the second dimension holds channels.
    """
    dims = list(value.type.tensor_type.shape.dim)
    if channels_first:
        del dims[1]
    for dim, (name, limit) in zip(dims, limits.items(), strict=False):
        if isinstance(limit, Range):
            steps = limit.multiple
            dim.dim_param = name if steps == 1 else f"{steps}*{name}{steps}"


def note(model: onnx.ModelProto, notes: Mapping[str, str]) -> None:
    """Write notes into the graph's metadata, in place."""
    for key, value in sorted(notes.items()):
        model.metadata_props.add(key=f"{PRODUCER}.{key}", value=value)


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


def in_order(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with every node behind those it reads from; onnxruntime's quantiser mixes them."""
    nodes = list(model.graph.node)
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    done: set[int] = set()
    ordered: list[onnx.NodeProto] = []
    pending = list(reversed(range(len(nodes))))
    while pending:
        index = pending[-1]
        before = (makers[name] for name in nodes[index].input if name in makers)
        waiting = [maker for maker in before if maker not in done]
        if waiting and index not in done:
            pending.extend(reversed(waiting))
            continue
        pending.pop()
        if index not in done:
            done.add(index)
            ordered.append(nodes[index])
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(ordered)
    return result


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
        UserError: the checker refuses it, the opset is not the one asked for, it holds an unknown operator or
            one of training, weights lie in another file, or the uint8 input is transposed before it is cast
            (TensorRT's parser refuses that).
    """
    require_known_operators(model, "the exported graph")
    _check_inference_only(model)
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


def load(path: Path) -> onnx.ModelProto:
    """An ONNX file of anyone, with the weights that it keeps in other files.

    Raises:
        UserError: it is missing or no ONNX, or a file with its weights is missing, elsewhere or too short.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; give the path of an ONNX file") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder; give the path of an ONNX file") from error
    except Exception as error:
        raise UserError(f"{path} is damaged or no ONNX file ({error}); export it again") from error
    if not model.graph.node:
        raise UserError(f"{path} is damaged or no ONNX file (it holds no node); export it again")
    for name in _locations(model):
        if not (path.parent / name).is_file():
            raise UserError(
                f"{path} keeps weights in the file {name}, which is not beside it; "
                f"copy {name} to {path.parent}, or export the network into one file"
            )
    try:
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as error:
        raise UserError(f"the weights of {path} cannot be read ({error}); copy its files again") from error
    return model


def outside(path: Path) -> list[str]:
    """Names of the files, beside `path`, that hold weights of it."""
    return _locations(onnx.load(path, load_external_data=False))


def _locations(model: onnx.ModelProto) -> list[str]:
    kept = [tensor for tensor in tensors(model.graph) if tensor.data_location == tensor.EXTERNAL]
    return sorted(
        {entry.value for tensor in kept for entry in tensor.external_data if entry.key == "location"}
    )


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All constants of a graph and of the graphs inside its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from tensors(inner)


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes of a graph and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from nodes(inner)


def require_known_operators(model: onnx.ModelProto, what: str) -> None:
    """Refuse operators that the ONNX standard does not define at the opset that the model asks for.

    Raises:
        UserError: with the first such node, its operator and the opset.
    """
    versions = {entry.domain or "ai.onnx": int(entry.version) for entry in model.opset_import}
    own = {(function.domain or "ai.onnx", function.name) for function in model.functions}
    for node in nodes(model.graph):
        domain = node.domain or "ai.onnx"
        if (domain, node.op_type) in own:
            continue
        if not defined(domain, node.op_type, versions.get(domain, 1)):
            place = node.name or next(iter(node.output), "")
            raise UserError(
                f"{what} holds the node {place!r} of the operator {domain}.{node.op_type}, which ONNX does "
                f"not define at opset {versions.get(domain, 'none')}; write that step with standard operators"
            )


def defined(domain: str, operator: str, version: int) -> bool:
    """Whether the ONNX standard has an operator in that version of a domain."""
    try:
        onnx.defs.get_schema(operator, version, "" if domain == "ai.onnx" else domain)
    except onnx.defs.SchemaError:
        return False
    return True


def _check_inference_only(model: onnx.ModelProto) -> None:
    convolved = {name for node in model.graph.node if node.op_type == "Conv" for name in node.output}
    for node in model.graph.node:
        folded = node.op_type != "BatchNormalization" or node.input[0] not in convolved
        if node.op_type == "Dropout" or not folded:
            raise UserError(
                f"the exported graph still holds {node.op_type} (node {node.name!r}), which inference does "
                "not need; put the network in eval mode before it is exported"
            )


def _users(nodes: Iterable[onnx.NodeProto], name: str) -> set[str]:
    return {node.op_type for node in nodes if name in node.input}
