"""An ONNX graph read by TensorRT's own parser; what it refuses names the node and the operator."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import onnx

from afdcd.errors import UserError
from deploy import graph
from deploy.tensorrt.bindings import Bindings
from deploy.tensorrt.messages import clean, require_same_meaning, warnings

WIDE = (onnx.TensorProto.DOUBLE, onnx.TensorProto.UINT64, onnx.TensorProto.UINT32)
"""What the parser narrows without a word, or refuses without a reason."""


class Network(NamedTuple):
    """A parsed graph with all that must live as long: the parser owns the weights.

    Attributes:
        definition: TensorRT's network.
        warnings: what the parser remarked, without those that change the meaning, which are refused.
    """

    builder: Any
    definition: Any
    parser: Any
    warnings: list[str]


def parse(bindings: Bindings, listener: Any, content: bytes, name: str) -> Network:
    """Read a graph into a strongly typed network.

    Args:
        bindings: the library.
        listener: its logger.
        content: of the ONNX file.
        name: the file's name, for messages.

    Raises:
        UserError: it is no ONNX, TensorRT has no form for a node (named with its operator), or it would read
            something else than the graph says.
    """
    _require_narrow(content, bindings, name)
    builder = bindings.api.Builder(listener)
    typed = 1 << int(bindings.member("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"))
    definition = builder.create_network(typed)
    parser = bindings.api.OnnxParser(definition, listener)
    good = parser.parse(content)
    require_same_meaning(warnings(listener), bindings, name)
    if not good:
        raise UserError(f"{bindings} cannot take {name}: {_complaint(parser)}")
    return Network(builder, definition, parser, warnings(listener))


def _require_narrow(content: bytes, bindings: Bindings, name: str) -> None:
    """Refuse constants that would lose digits: the parser turns float64 into float32 and says nothing."""
    try:
        model = onnx.load_from_string(content)
    except Exception as error:  # protobuf's own, of a package without types
        raise UserError(f"{name} is damaged or no ONNX file ({error}); export it again") from error
    for tensor in graph.tensors(model.graph):
        if tensor.data_type in WIDE:
            kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
            raise UserError(
                f"{name} holds the constant {tensor.name!r} in {kind}, which {bindings} would narrow without "
                "saying so; export the network in float32 with int64 sizes"
            )


def _complaint(parser: Any) -> str:
    """The parser's first error: node, operator, reason."""
    if not parser.num_errors:
        return "the parser gives no reason"
    error = parser.get_error(0)
    node, operator = error.node_name(), error.node_operator()
    if not operator:
        return clean(error.desc())
    return f"node {node!r} ({operator}): {_reason(error.desc())}"


def _reason(text: str) -> str:
    """The telling part of an error of the parser."""
    if text.strip() in ("", "false"):
        return "it has no such operator; write that step with others"
    if "Plugin not found" in text:
        return "it has neither such an operator nor a plugin of that name; write that step with others"
    inside = re.search(r"API Usage Error \(\w*:?\s*(.*?)\.? In \w+ at ", text)
    return inside[1] if inside else clean(text)
