"""fp16 and bf16 written into the graph: every tensor between the first and the last convolution is narrow.

Before the first operator with weights (cast, normalisation) and after the last (upsampling, argmax) values
stay in float32, so inputs and outputs keep their types, bytes are normalised exactly, and classes are decided
without rounding. Graphs come from the exporter with batch normalisation folded; the usual failure of bf16
export (float weights beside narrow activations) cannot happen here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from afdcd.errors import UserError
from deploy import graph
from deploy.bundle import CLASS_MAP, LOGITS

Narrow = Literal["fp16", "bf16"]

_TYPES: dict[str, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_FP16_MAX = 65504.0
_BF16_OPSET = 22
"""The first at which convolution and pooling are defined for bfloat16."""

_WEIGHTED = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
_FLOAT_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs that stay float32 whatever the type of the first one."""


def variant(exported: Mapping[str, bytes], precision: Narrow) -> dict[str, bytes]:
    """Both ONNX twins of an exported network, typed; equal graphs give equal bytes.

    Raises:
        UserError: a weight does not fit into fp16, or the typed graph is not valid ONNX.
    """
    return {
        name: graph.to_bytes(typed(onnx.load_from_string(exported[name]), precision))
        for name in (CLASS_MAP, LOGITS)
    }


def typed(model: onnx.ModelProto, precision: Narrow) -> onnx.ModelProto:
    """The graph with narrow tensors from its first to its last weighted operator; bf16 raises it to opset 22.

    Q/DQ nodes may be among them: their scales become narrow too.

    Raises:
        UserError: there is no weighted operator, a weight does not fit, or the result is not valid ONNX.
    """
    if precision == "bf16" and graph.opset(model) < _BF16_OPSET:
        model = onnx.version_converter.convert_version(model, _BF16_OPSET)
    result = graph.canonical(_Narrowing(model, _TYPES[precision]).model())
    try:
        onnx.checker.check_model(result, full_check=True)
    except Exception as error:
        raise UserError(f"the graph in {precision} is not valid ONNX: {error}") from error
    return result


def emulated(model: onnx.ModelProto) -> onnx.ModelProto:
    """A typed graph in float32 that rounds wherever the typed one does: for CPUs that compute neither type.

    Hardware adds up in float32 as well. Run it with graph optimisation off: optimisers drop pairs of casts.
    """
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    types = {*_TYPES.values()}
    narrow = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
        if value.type.tensor_type.elem_type in types
    }
    for tensor in plain.graph.initializer:
        if tensor.data_type in types:
            wide = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    nodes: list[onnx.NodeProto] = []
    for node in plain.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in types:
                attribute.i = TensorProto.FLOAT
        rounded = [name for name in node.output if name in narrow]
        renamed = {name: f"{name}_wide" for name in rounded}
        outputs = [renamed.get(name, name) for name in node.output]
        del node.output[:]
        node.output.extend(outputs)
        nodes.append(node)
        for name in rounded:
            short = f"{name}_short"
            nodes.append(helper.make_node("Cast", [renamed[name]], [short], to=narrow[name]))
            nodes.append(helper.make_node("Cast", [short], [name], to=TensorProto.FLOAT))
    del plain.graph.node[:]
    plain.graph.node.extend(nodes)
    return plain


class _Narrowing:
    """One pass over a graph: which nodes are narrow, and casts where types meet."""

    def __init__(self, model: onnx.ModelProto, kind: int) -> None:
        self._source = onnx.shape_inference.infer_shapes(graph.in_order(model), data_prop=True)
        self._kind = kind
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        values = (*self._source.graph.input, *self._source.graph.value_info, *self._source.graph.output)
        self._float = {
            value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT
        }
        self._inside = self._between_weights()
        self._narrow: set[str] = set()
        """Tensors that are narrow under their own name."""
        self._added: dict[str, onnx.TensorProto] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._cast: set[str] = set()

    def model(self) -> onnx.ModelProto:
        """The typed graph."""
        outputs = {value.name for value in self._source.graph.output}
        for index, node in enumerate(self._source.graph.node):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            ends: list[onnx.NodeProto] = []
            if index in self._inside:
                self._narrow_inputs(copy)
                self._narrow_constants(copy)
                self._narrow.update(name for name in node.output if name in self._float - outputs)
                ends = self._widen_outputs(copy, outputs)
            else:
                self._widen_inputs(copy)
            self._nodes.extend([copy, *ends])
        result = onnx.ModelProto()
        result.CopyFrom(self._source)
        used = {name for node in self._nodes for name in node.input}
        del result.graph.node[:], result.graph.initializer[:], result.graph.value_info[:]
        result.graph.node.extend(self._nodes)
        kept = [tensor for name, tensor in self._constants.items() if name in used]
        result.graph.initializer.extend([*kept, *self._added.values()])
        return result

    def _between_weights(self) -> set[int]:
        """Nodes with a weighted operator at or before them, and one at or after them.

        Raises:
            UserError: there is none.
        """
        nodes = self._source.graph.node
        weighted = {index for index, node in enumerate(nodes) if node.op_type in _WEIGHTED}
        if not weighted:
            raise UserError("the graph holds no convolution or matrix product; there is nothing to narrow")
        makers = {name: index for index, node in enumerate(nodes) for name in node.output}
        after, before = set(weighted), set(weighted)
        for index, node in enumerate(nodes):
            if any(makers.get(name) in after for name in node.input):
                after.add(index)
        for index in reversed(range(len(nodes))):
            if index in before:
                before.update(makers[name] for name in nodes[index].input if name in makers)
        inside = after & before
        # A weight that is dequantised has no operator before it, but belongs to the one behind it.
        for index, node in enumerate(nodes):
            if node.op_type == "DequantizeLinear":
                users = {user for user, other in enumerate(nodes) if node.output[0] in other.input}
                if users and users <= inside:
                    inside.add(index)
        return inside

    def _narrow_inputs(self, node: onnx.NodeProto) -> None:
        fixed = _FLOAT_INPUTS.get(node.op_type, ())
        for position, name in enumerate(node.input):
            if position in fixed or not name:
                continue
            if name in self._constants:
                if self._constants[name].data_type == TensorProto.FLOAT:
                    node.input[position] = self._constant(name)
            elif name in self._float and name not in self._narrow:
                node.input[position] = self._bridge(name, f"{name}_narrow", self._kind)

    def _widen_outputs(self, node: onnx.NodeProto, outputs: set[str]) -> list[onnx.NodeProto]:
        """Casts behind a narrow node that makes an output of the graph."""
        casts = []
        for position, name in enumerate(node.output):
            if name in outputs & self._float:
                node.output[position] = f"{name}_narrow"
                casts.append(
                    helper.make_node("Cast", [f"{name}_narrow"], [name], name=name, to=TensorProto.FLOAT)
                )
        return casts

    def _widen_inputs(self, node: onnx.NodeProto) -> None:
        for position, name in enumerate(node.input):
            if name in self._narrow:
                node.input[position] = self._bridge(name, f"{name}_float", TensorProto.FLOAT)

    def _bridge(self, name: str, cast: str, kind: int) -> str:
        if cast not in self._cast:
            self._cast.add(cast)
            self._nodes.append(helper.make_node("Cast", [name], [cast], name=cast, to=kind))
        return cast

    def _constant(self, name: str) -> str:
        narrow = f"{name}_narrow"
        if narrow not in self._added:
            values = numpy_helper.to_array(self._constants[name])
            self._added[narrow] = numpy_helper.from_array(self._rounded(values, name), narrow)
        return narrow

    def _narrow_constants(self, node: onnx.NodeProto) -> None:
        """Constants inside a node, and the type that a cast leads to."""
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = self._kind
            elif attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
                values = self._rounded(numpy_helper.to_array(attribute.t), node.name)
                attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))

    def _rounded(self, values: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
        if self._kind == TensorProto.BFLOAT16:
            narrow: npt.NDArray[Any] = values.astype(ml_dtypes.bfloat16)
            return narrow
        finite = np.isfinite(values) & (np.abs(values) < np.finfo(np.float32).max / 2)
        if (np.abs(values[finite]) > _FP16_MAX).any():
            raise UserError(
                f"the constant {name!r} reaches {np.abs(values[finite]).max():.3g}, fp16 ends at "
                f"{_FP16_MAX:g}; take bf16 or fp32 for this network"
            )
        # Bounds of clips are float32's own ends; they become fp16's.
        half: npt.NDArray[Any] = np.clip(values, -_FP16_MAX, _FP16_MAX).astype(np.float16)
        return half
