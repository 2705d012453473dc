"""Which layers INT8 harms most: each convolution's own SQNR, and which of them may stay in float.

A layer's SQNR compares its float output with that of the same layer with quantised input and weights, both
fed from the float graph, on a few calibration images. So what earlier layers lose is not counted against
later ones. One graph holds all layers twice, and one pass measures all: quantising one layer at a time would
take as many passes as there are layers. It ranks only; whether keeping layers in float helps, val decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from deploy import graph
from deploy.config import KeepFloat
from deploy.quantisation import Layer
from deploy.sessions.onnxruntime import open_graph

_IMAGES = 4
_ROUNDING = 1e-9


def measure(
    model: onnx.ModelProto, quantised: onnx.ModelProto, images: npt.NDArray[np.uint8], *, threads: int
) -> list[Layer]:
    """Every convolution that `quantised` holds in INT8, the most sensitive first.

    Args:
        model: the float graph.
        quantised: what `deploy.qdq.insert` made of it.
        images: of calibration, (N, H, W, 3); the first few are used.
        threads: CPU threads.
    """
    double, names = _doubled(model, quantised)
    session = open_graph(graph.to_bytes(double), "the doubled graph", threads=threads)
    sums = np.zeros((len(names), 3))
    for image in images[:_IMAGES]:
        found = session.run(None, {model.graph.input[0].name: image[None]})
        sums += np.array([np.asarray(value).item() for value in found]).reshape(-1, 3)
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    of_layer = {
        node.name: weights[node.input[1]] for node in _convolutions(model) if node.input[1] in weights
    }
    macs = np.array([float(np.prod(of_layer[name][1:])) for name in names]) * sums[:, 2]
    layers = [
        Layer(
            name=name,
            sqnr_db=round(10 * float(np.log10(signal / noise)), 2) if signal > 0 and noise > 0 else None,
            macs=float(share),
        )
        for name, (signal, noise, _), share in zip(names, sums, macs / macs.sum(), strict=True)
    ]
    return sorted(layers, key=lambda layer: np.inf if layer.sqnr_db is None else layer.sqnr_db)


def most_sensitive(layers: Iterable[Layer], budget: KeepFloat) -> list[str]:
    """Names of the first layers that fit into the budget together; one that does not fit is passed over."""
    kept: list[str] = []
    left = budget.macs
    for layer in layers:
        if len(kept) == budget.layers:
            break
        if layer.macs <= left + _ROUNDING and layer.sqnr_db is not None:
            kept.append(layer.name)
            left -= layer.macs
    return kept


def _convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Conv"]


def _doubled(model: onnx.ModelProto, quantised: onnx.ModelProto) -> tuple[onnx.ModelProto, Sequence[str]]:
    """The float graph with a quantised twin beside each layer, and names of those layers.

    Outputs are three numbers a layer: power of its output, power of its twin's difference, elements.
    """
    makers = {name: node for node in quantised.graph.node for name in node.output}
    floats = {node.name: node for node in _convolutions(model)}
    added: list[onnx.NodeProto] = []
    outputs: list[onnx.ValueInfoProto] = []
    names: list[str] = []

    def add(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        added.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    for node in _convolutions(quantised):
        back, weight = makers.get(node.input[0]), makers.get(node.input[1])
        if weight is None or back is None or back.op_type != "DequantizeLinear":
            continue
        into, twin, original = makers[back.input[0]], f"{node.name}_twin", floats[node.name]
        coded = add("QuantizeLinear", into.input, f"{twin}_coded")
        restored = add("DequantizeLinear", [coded, *back.input[1:]], f"{twin}_input")
        twin_weight = onnx.NodeProto()
        twin_weight.CopyFrom(weight)
        twin_weight.name = twin_weight.output[0] = f"{twin}_weight"
        added.append(twin_weight)
        layer = onnx.NodeProto()
        layer.CopyFrom(original)
        layer.name = layer.output[0] = twin
        layer.input[0], layer.input[1] = restored, f"{twin}_weight"
        added.append(layer)
        true = original.output[0]
        difference = add("Sub", [true, twin], f"{twin}_difference")
        outputs += [
            helper.make_tensor_value_info(name, kind, None)
            for name, kind in (
                (add("ReduceSumSquare", [true], f"{twin}_signal"), TensorProto.FLOAT),
                (add("ReduceSumSquare", [difference], f"{twin}_noise"), TensorProto.FLOAT),
                (add("Size", [true], f"{twin}_elements"), TensorProto.INT64),
            )
        ]
        names.append(node.name)
    double = onnx.ModelProto()
    double.CopyFrom(model)
    known = {tensor.name for tensor in model.graph.initializer}
    double.graph.initializer.extend(t for t in quantised.graph.initializer if t.name not in known)
    double.graph.node.extend(added)
    del double.graph.output[:], double.graph.value_info[:]
    double.graph.output.extend(outputs)
    return double, names
