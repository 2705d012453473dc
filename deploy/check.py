"""A static look at a graph for an engine: what it would refuse, misread or run slowly, found beforehand.

Errors stop a build; warnings are remarks. Nothing is run, and no engine is loaded: what an engine's own
parser thinks, only the parser tells (`deploy.tensorrt.dry` for TensorRT).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from afdcd.errors import UserError
from afdcd.plugins import nearest
from deploy import graph
from deploy.config import Config

OPSETS = (18, 24)
"""The lowest and the highest that this project's exporter writes; ONNX Runtime and TensorRT read them."""

TENSORRT = ("tensorrt", "tensorrt_rtx", "onnxruntime_tensorrt")
ONNX_BACKENDS = ("onnxruntime", "onnxruntime_cuda", "openvino", *TENSORRT)
"""Backends that read ONNX."""

_MANY_GATHERS = 30
"""Adaptive pooling with 6x6 bins, spelled out, has 354; an ordinary network has a handful for its sizes."""


class Finding(Config):
    """Something about a graph.

    Attributes:
        level: an error means that the engine refuses the graph, or computes something else.
        rule: a short name.
        place: the node or tensor; empty where it is the graph as a whole.
        says: what it is.
        remedy: what to do.
    """

    level: Literal["error", "warning"]
    rule: str
    place: str
    says: str
    remedy: str

    def sentence(self) -> str:
        """All of it in one sentence."""
        return f"{self.place + ': ' if self.place else ''}{self.says}; {self.remedy}"


class _Subject(NamedTuple):
    """A graph and what is asked of it."""

    model: onnx.ModelProto
    backend: str
    nodes: list[onnx.NodeProto]
    constants: dict[str, onnx.TensorProto]
    makers: dict[str, onnx.NodeProto]


Rule = Callable[[_Subject], Iterator[Finding]]


def check(model: onnx.ModelProto, backend: str) -> list[Finding]:
    """Everything that the rules find in a graph for a backend, errors first.

    Raises:
        UserError: the backend reads no ONNX.
    """
    if backend not in ONNX_BACKENDS:
        raise UserError(f"{backend!r} reads no ONNX graph; {nearest(backend, ONNX_BACKENDS)}")
    nodes = list(graph.nodes(model.graph))
    subject = _Subject(
        model,
        backend,
        nodes,
        {tensor.name: tensor for tensor in model.graph.initializer},
        {name: node for node in nodes for name in node.output},
    )
    found = [finding for rule in _rules(backend) for finding in rule(subject)]
    return sorted(found, key=lambda finding: finding.level)


def check_file(path: Path, backend: str) -> list[Finding]:
    """The same for a file; weights that lie in a second file beside it are a finding.

    Raises:
        UserError: it is missing or no ONNX, or a second file is missing.
    """
    model = graph.load(path)
    return check(model, backend) + list(_outside(onnx.load(path, load_external_data=False)))


def require_sound(content: bytes, name: str, backend: str) -> list[Finding]:
    """The warnings about a graph without errors.

    Raises:
        UserError: it has errors: the first one, its remedy, and how many more there are.
    """
    try:
        model = onnx.load_from_string(content)
    except Exception as error:  # protobuf's own, of a package without types
        raise UserError(f"{name} is damaged or no ONNX file ({error}); export it again") from error
    found = [*check(model, backend), *_outside(model)]
    errors = [finding for finding in found if finding.level == "error"]
    if errors:
        more = f" ({len(errors) - 1} more like it)" if len(errors) > 1 else ""
        raise UserError(f"{name} is not sound for {backend}: {errors[0].sentence()}{more}")
    return found


def _rules(backend: str) -> list[Rule]:
    general: list[Rule] = [_opset, _operators, _inference_only, _gathers, _sizes]
    return general + ([_bytes_first, _symmetric, _wide] if backend in TENSORRT else [_half_quantised])


def _error(rule: str, place: str, says: str, remedy: str) -> Finding:
    return Finding(level="error", rule=rule, place=place, says=says, remedy=remedy)


def _warning(rule: str, place: str, says: str, remedy: str) -> Finding:
    return Finding(level="warning", rule=rule, place=place, says=says, remedy=remedy)


def _name(node: onnx.NodeProto) -> str:
    return f"node {node.name or next(iter(node.output), '')!r} ({node.op_type})"


def _opset(subject: _Subject) -> Iterator[Finding]:
    found, (lowest, highest) = graph.opset(subject.model), OPSETS
    if not lowest <= found <= highest:
        yield _warning(
            "opset",
            "",
            f"its opset is {found}, tried are {lowest} to {highest}",
            f"export it with opset {min(max(found, lowest), highest)}",
        )


def _operators(subject: _Subject) -> Iterator[Finding]:
    versions = {entry.domain or "ai.onnx": int(entry.version) for entry in subject.model.opset_import}
    own = {(function.domain or "ai.onnx", function.name) for function in subject.model.functions}
    for node in subject.nodes:
        domain = node.domain or "ai.onnx"
        contributed = domain == "com.microsoft" and subject.backend.startswith("onnxruntime")
        if (domain, node.op_type) in own or contributed:
            continue
        if not graph.defined(domain, node.op_type, versions.get(domain, 1)):
            yield _error(
                "operator",
                _name(node),
                f"ONNX does not define {domain}.{node.op_type} at opset {versions.get(domain, 'none')}",
                "write that step with standard operators",
            )


def _inference_only(subject: _Subject) -> Iterator[Finding]:
    for node in subject.nodes:
        if node.op_type == "Dropout":
            yield _warning(
                "training", _name(node), "inference does not need it", "export the network in eval mode"
            )


def _gathers(subject: _Subject) -> Iterator[Finding]:
    count = Counter(node.op_type for node in subject.nodes)["Gather"]
    if count > _MANY_GATHERS:
        yield _warning(
            "gathers",
            "",
            f"it holds {count} Gather nodes, as adaptive pooling does that was spelled out: slow to build, "
            "and wrong at sizes other than the exported one",
            "write the pooling as products of matrices (deploy.rewrite), or keep to that size",
        )


def _sizes(subject: _Subject) -> Iterator[Finding]:
    for value in subject.model.graph.input:
        dims = value.type.tensor_type.shape.dim
        free = [dim.dim_param or "?" for dim in dims if not dim.dim_value]
        if "?" in free:
            yield _error(
                "sizes",
                f"input {value.name!r}",
                "it has a length without a number or a name",
                "name its free dimensions at export",
            )
        elif free and subject.backend in TENSORRT:
            yield _warning(
                "sizes",
                f"input {value.name!r}",
                f"its lengths {', '.join(free)} are free",
                "TensorRT needs their least, usual and largest value, which a contract gives",
            )


def _outside(model: onnx.ModelProto) -> Iterator[Finding]:
    names = {
        entry.value
        for tensor in graph.tensors(model.graph)
        if tensor.data_location == tensor.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for name in sorted(names):
        yield _error(
            "external data",
            f"file {name!r}",
            "weights lie outside the graph's own file, which then is not the whole engine",
            "below 2 GB, export the network into one file",
        )


def _bytes_first(subject: _Subject) -> Iterator[Finding]:
    """TensorRT has bytes only at the ends of a network."""
    for value in subject.model.graph.input:
        if value.type.tensor_type.elem_type != TensorProto.UINT8:
            continue
        for node in subject.nodes:
            if value.name in node.input and node.op_type not in ("Cast", "Shape"):
                yield _error(
                    "byte order",
                    _name(node),
                    f"it takes the bytes of input {value.name!r}, and TensorRT only casts bytes",
                    "cast to float before anything else",
                )


def _symmetric(subject: _Subject) -> Iterator[Finding]:
    """TensorRT's integers are signed and have no zero point; its biases are float."""
    for node in subject.nodes:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        zero = _constant(subject, node.input[2]) if len(node.input) > 2 and node.input[2] else None
        held = subject.constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        kinds = {tensor.data_type for tensor in (zero, held) if tensor is not None}
        typed = any(attribute.name == "output_dtype" and attribute.i for attribute in node.attribute)
        unsigned = node.op_type == "QuantizeLinear" and zero is None and not typed
        if TensorProto.INT32 in kinds:
            yield _error(
                "int32 bias",
                _name(node),
                "a bias in int32 is dequantised, for which TensorRT has no form",
                "quantise without biases (the preset s8s8_symmetric)",
            )
        elif unsigned or kinds & {TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT4}:
            yield _error(
                "unsigned",
                _name(node),
                "its values are unsigned, which TensorRT reads as signed ones: other numbers",
                "quantise with signed symmetric activations (the preset s8s8_symmetric)",
            )
        elif zero is not None and np.any(numpy_helper.to_array(zero).astype(np.int64)):
            yield _error(
                "zero point",
                _name(node),
                "its zero point is not 0, for which TensorRT has no form",
                "quantise with symmetric activations (the preset s8s8_symmetric)",
            )


def _constant(subject: _Subject, name: str) -> onnx.TensorProto | None:
    if name in subject.constants:
        return subject.constants[name]
    maker = subject.makers.get(name)
    if maker is None or maker.op_type != "Constant":
        return None
    return next((attribute.t for attribute in maker.attribute if attribute.name == "value"), None)


def _wide(subject: _Subject) -> Iterator[Finding]:
    for tensor in graph.tensors(subject.model.graph):
        if tensor.data_type in (TensorProto.DOUBLE, TensorProto.UINT64, TensorProto.UINT32):
            kind = TensorProto.DataType.Name(tensor.data_type).lower()
            yield _error(
                "wide constant",
                f"constant {tensor.name!r}",
                f"it is {kind}, which TensorRT narrows without saying so",
                "export the network in float32 with int64 sizes",
            )


def _half_quantised(subject: _Subject) -> Iterator[Finding]:
    """ONNX Runtime's optimiser spoils these without a word: 47 dB of SQNR with it off, 7 dB with it on."""
    scales = [
        subject.constants[node.input[1]].data_type
        for node in subject.nodes
        if node.op_type == "QuantizeLinear" and node.input[1] in subject.constants
    ]
    if subject.backend.startswith("onnxruntime") and TensorProto.FLOAT16 in scales:
        yield _error(
            "fp16 and int8",
            "",
            "fp16 is mixed with quantised values, which ONNX Runtime's optimiser computes wrongly",
            "quantise the float32 graph",
        )
