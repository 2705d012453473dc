"""Where two forms of a network part: the first tensor, in the order of the graph, that differs too much.

ONNX tensors carry the names of the nodes of the decomposed program that they were made from, so a graph can
be held against PyTorch tensor by tensor; two graphs are compared by tensor name. Everything before the tensor
named was compared and is right, so the node that makes it is the one at fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx

from deploy.bundle import Contract, Pixels
from deploy.config import Config
from deploy.graph import to_bytes
from deploy.sessions.onnxruntime import open_graph

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Arrays = dict[str, npt.NDArray[Any]]
Probe = Callable[[Sequence[str]], Arrays]
"""The values of the named tensors."""

_AT_ONCE = 24
"""Tensors held in memory together."""


class Divergence(Config):
    """The first tensor that differs.

    Attributes:
        tensor: its name in the graph.
        operator: the kind of the node that makes it.
        weights: constants of that node.
        relative_error: largest difference over the largest value of the reference.
    """

    tensor: str
    operator: str
    weights: list[str]
    relative_error: float

    def sentence(self) -> str:
        """For an error's text."""
        weights = f" with {', '.join(self.weights)}" if self.weights else ""
        return (
            f"the first tensor that differs is {self.tensor!r}, of {self.operator}{weights} "
            f"(relative error {self.relative_error:.1e})"
        )


def against_program(
    program: ExportedProgram, model: onnx.ModelProto, contract: Contract, images: Pixels, *, limit: float
) -> Divergence | None:
    """Hold a graph against the program that it was exported from, at images (B, H, W, 3).

    None means that all tensors agree when they are looked at: then the fault lies in what the engine does
    to the graph when they are not.
    """
    from deploy.export import translate

    decomposed = translate(program, contract).exported_program
    assert decomposed is not None  # it was made from a program
    results = [argument.name for argument in decomposed.graph.output_node().args[0]]
    own = {contract.output.name: results[0], contract.logits: results[1]}
    names = {node.name for node in decomposed.graph.nodes}
    order = [name for name in _floats(model) if own.get(name, name) in names]

    def wanted(asked: Sequence[str]) -> Arrays:
        values = _interpret(decomposed, [own.get(name, name) for name in asked], images)
        return {name: values[own.get(name, name)] for name in asked if own.get(name, name) in values}

    return _first(model, order, wanted, _onnx_probe(model, images), limit)


def between(
    reference: onnx.ModelProto, model: onnx.ModelProto, images: Pixels, *, limit: float
) -> Divergence | None:
    """Hold a graph against another with the same tensor names, such as a typed or quantised one."""
    known = set(_floats(reference))
    order = [name for name in _floats(model) if name in known]
    return _first(model, order, _onnx_probe(reference, images), _onnx_probe(model, images), limit)


def _floats(model: onnx.ModelProto) -> list[str]:
    """Names of the floating-point tensors that nodes make, in the graph's order."""
    kinds = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    known = {
        value.name
        for value in (*inferred.value_info, *inferred.output)
        if value.type.tensor_type.elem_type in kinds
    }
    return [name for node in model.graph.node for name in node.output if name in known]


def _first(
    model: onnx.ModelProto, order: Sequence[str], wanted: Probe, found: Probe, limit: float
) -> Divergence | None:
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name for tensor in model.graph.initializer}
    for names in (order[start : start + _AT_ONCE] for start in range(0, len(order), _AT_ONCE)):
        for name, error in _errors(names, wanted(names), found(names)):
            if not error <= limit:
                weights = [source for source in makers[name].input if source in constants]
                return Divergence(
                    tensor=name,
                    operator=makers[name].op_type,
                    weights=weights,
                    relative_error=min(error, float(np.finfo(np.float64).max)),
                )
    return None


def _errors(
    names: Sequence[str], wanted: Mapping[str, npt.NDArray[Any]], found: Mapping[str, npt.NDArray[Any]]
) -> Iterator[tuple[str, float]]:
    """Relative error of each tensor; infinite for another shape or values that only one side has."""
    for name in names:
        if name not in wanted or name not in found:
            continue
        first, second = wanted[name].astype(np.float64), found[name].astype(np.float64)
        if first.shape != second.shape or not np.isfinite(second).all():
            yield name, float("inf")
        elif first.size:
            scale = max(float(np.abs(first).max()), float(np.finfo(np.float64).tiny))
            yield name, min(float(np.abs(first - second).max()) / scale, float(np.finfo(np.float64).max))


def _onnx_probe(model: onnx.ModelProto, images: Pixels) -> Probe:
    def probe(names: Sequence[str]) -> Arrays:
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        del watched.graph.output[:]
        watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        session = open_graph(to_bytes(watched), "the graph with its intermediate tensors", threads=1)
        values = session.run(list(names), {model.graph.input[0].name: images})
        return dict(zip(names, values, strict=True))

    return probe


def _interpret(program: ExportedProgram, names: Sequence[str], images: Pixels) -> Arrays:
    import torch
    from torch import fx

    asked, seen = set(names), Arrays()

    class Watching(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.name in asked and isinstance(value, torch.Tensor):
                seen[n.name] = value.numpy().copy()
            return value

    with torch.inference_mode():
        Watching(program.module()).run(torch.from_numpy(np.require(images, requirements="W")))
    return seen
