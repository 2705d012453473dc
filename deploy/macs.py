"""Multiply-accumulates of an ONNX graph, node by node; of anyone's graph, without its training code."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import onnx

from afdcd.errors import UserError
from deploy.config import Config
from deploy.graph import nodes

T = TypeVar("T")

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
_PRODUCTS = {"MatMul": 1, "MatMulInteger": 1, "QLinearMatMul": 3, "Gemm": 1}
"""Operators, and which of their inputs holds the weights."""

UNCOUNTED = frozenset({"Einsum", "LSTM", "GRU", "RNN", "Attention", "DeformConv"})
"""They multiply too, but are not counted; the record names those that a graph has."""


class NodeMacs(Config):
    """One node: its multiply-accumulates, and those of them that touch no padding."""

    node: str
    operator: str
    macs: int
    effective: int


class Macs(Config):
    """A graph at one input shape.

    Attributes:
        gmacs: 1e9 multiply-accumulates of convolutions and matrix products.
        gflops: twice that: a multiplication and an addition each.
        effective_gflops: without the taps that fall into the padding, which engines skip.
        uncounted: operators of the graph that multiply and are not counted.
        nodes: in the graph's order.
    """

    gmacs: float
    gflops: float
    effective_gflops: float
    uncounted: list[str]
    nodes: list[NodeMacs]


def count(model: onnx.ModelProto, inputs: Shapes) -> Macs:
    """Count a graph at these input shapes.

    Args:
        model: any ONNX graph.
        inputs: name -> shape of each input that is left open in the graph; others may be given too.

    Raises:
        UserError: a shape does not fit the graph, or that of a convolution or product is not known.
    """
    known = _shapes(model, inputs)
    lacking = [name for node in model.graph.node for name in _needed(node) if name not in known]
    if lacking and all(value.name in known for value in _fed(model)):
        known.update(_by_running(model, {value.name: known[value.name] for value in _fed(model)}, lacking))
    found = [one for node in nodes(model.graph) if (one := _node(node, known)) is not None]
    total, effective = sum(one.macs for one in found), sum(one.effective for one in found)
    return Macs(
        gmacs=total / 1e9,
        gflops=2 * total / 1e9,
        effective_gflops=2 * effective / 1e9,
        uncounted=sorted({node.op_type for node in nodes(model.graph)} & UNCOUNTED),
        nodes=found,
    )


def _shapes(model: onnx.ModelProto, inputs: Shapes) -> dict[str, Shape]:
    """The shapes of all tensors that inference can tell."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        if value.name not in inputs:
            continue
        dimensions = value.type.tensor_type.shape.dim
        if len(dimensions) != len(inputs[value.name]):
            raise UserError(
                f"input {value.name!r} has {len(dimensions)} dimensions, {inputs[value.name]} was given"
            )
        for dimension, length in zip(dimensions, inputs[value.name], strict=True):
            dimension.dim_value = length
    del fixed.graph.value_info[:]  # those of the open sizes would stand in the way
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    except Exception as error:
        raise UserError(f"the shapes of the graph cannot be told: {str(error).splitlines()[0]}") from error
    known = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(axis.HasField("dim_value") for axis in tensor.shape.dim):
            known[value.name] = tuple(axis.dim_value for axis in tensor.shape.dim)
    return known


def _fed(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller gives: older files list the weights among them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _needed(node: onnx.NodeProto) -> tuple[str, ...]:
    """The tensors whose shapes a node's count rests on."""
    if _counter(node.op_type) is None:
        return ()
    place = {**_CONVOLUTIONS, **_PRODUCTS}.get(node.op_type, 1)
    return node.input[0], node.input[place], node.output[0]


def _by_running(model: onnx.ModelProto, inputs: Shapes, names: Sequence[str]) -> dict[str, Shape]:
    """Shapes that inference cannot tell, since the graph computes them from its input's: one run on zeros."""
    from deploy.sessions.onnxruntime import open_graph

    names = list(dict.fromkeys(names))
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = open_graph(watched.SerializeToString(), "the graph with its inner tensors", threads=1)
    types = {value.name: value.type.tensor_type.elem_type for value in _fed(model)}
    feed = {
        name: np.zeros(shape, dtype=onnx.helper.tensor_dtype_to_np_dtype(types[name]))
        for name, shape in inputs.items()
    }
    return {name: value.shape for name, value in zip(names, session.run(names, feed), strict=True)}


def _node(node: onnx.NodeProto, known: Shapes) -> NodeMacs | None:
    counter = _counter(node.op_type)
    if counter is None:
        return None
    first, weights, made = _needed(node)
    lacking = [name for name in (first, weights, made) if name not in known]
    if lacking:
        raise UserError(
            f"{node.op_type} {node.name!r}: the shape of {lacking[0]!r} is not known at this input size; "
            "export the graph with fixed sizes to count it"
        )
    macs, effective = counter(node, known[first], known[weights], known[made])
    return NodeMacs(node=node.name or node.output[0], operator=node.op_type, macs=macs, effective=effective)


Counter = Callable[[onnx.NodeProto, Shape, Shape, Shape], tuple[int, int]]


def _counter(operator: str) -> Counter | None:
    if operator in _CONVOLUTIONS:
        return _convolution
    if operator == "ConvTranspose":
        return _transposed
    return _product if operator in _PRODUCTS else None


def _convolution(node: onnx.NodeProto, given: Shape, weights: Shape, made: Shape) -> tuple[int, int]:
    """Weights are (outputs, inputs a group, *kernel): groups need no care of their own."""
    channels = made[0] * made[1] * weights[1]
    taps = _taps(node, given[2:], weights[2:], made[2:])
    return channels * math.prod(made[2:]) * math.prod(weights[2:]), channels * math.prod(taps)


def _transposed(node: onnx.NodeProto, given: Shape, weights: Shape, made: Shape) -> tuple[int, int]:
    """Each input cell times the whole kernel; weights are (inputs, outputs a group, *kernel)."""
    macs = math.prod(given) * math.prod(weights[1:])
    return macs, macs


def _product(node: onnx.NodeProto, given: Shape, weights: Shape, made: Shape) -> tuple[int, int]:
    turned = node.op_type == "Gemm" and bool(_attribute(node, "transA", 0))
    macs = math.prod(made) * (given[0] if turned else given[-1])
    return macs, macs


def _taps(node: onnx.NodeProto, given: Shape, kernel: Shape, made: Shape) -> list[int]:
    """For each axis, how many pairs of an output cell and a tap lie inside the input."""
    axes = len(kernel)
    strides = _attribute(node, "strides", [1] * axes)
    dilations = _attribute(node, "dilations", [1] * axes)
    pads = _pads(node, given, kernel, made, strides, dilations)
    return [
        _inside(length, size, outputs, stride, dilation, pad)
        for length, size, outputs, stride, dilation, pad in zip(
            given, kernel, made, strides, dilations, pads, strict=True
        )
    ]


def _inside(length: int, size: int, outputs: int, stride: int, dilation: int, pad: int) -> int:
    starts = np.arange(outputs, dtype=np.int64)[:, None] * stride - pad
    cells: npt.NDArray[np.int64] = starts + np.arange(size, dtype=np.int64) * dilation
    return int(np.count_nonzero((cells >= 0) & (cells < length)))


def _pads(
    node: onnx.NodeProto,
    given: Shape,
    kernel: Shape,
    made: Shape,
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    """The padding before the first cell of each axis."""
    automatic = _attribute(node, "auto_pad", b"NOTSET").decode()
    if automatic == "NOTSET":
        return list(_attribute(node, "pads", [0] * 2 * len(kernel))[: len(kernel)])
    if automatic == "VALID":
        return [0] * len(kernel)
    whole = [
        max((outputs - 1) * stride + (size - 1) * dilation + 1 - length, 0)
        for length, size, outputs, stride, dilation in zip(
            given, kernel, made, strides, dilations, strict=True
        )
    ]
    return [total // 2 if automatic == "SAME_UPPER" else -(-total // 2) for total in whole]


def _attribute(node: onnx.NodeProto, name: str, default: T) -> T:
    for attribute in node.attribute:
        if attribute.name == name:
            value: T = onnx.helper.get_attribute_value(attribute)
            return value
    return default
