"""Anyone's ONNX of segmentation under the contract: bytes in, class map and logits out.

The graph takes one float image batch (B, 3, H, W) and gives scores (B, K, h, w), or a class map that an
ArgMax in it makes of such scores. Normalisation goes before its nodes, enlarging and argmax behind them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from afdcd.colours import voc_colour
from afdcd.config import Normalisation
from afdcd.errors import UserError
from afdcd.files import sha256
from afdcd.geometry import Fit
from deploy import graph
from deploy.bundle import CLASS_MAP, LOGITS, ClassMapOutput, Contract, Geometry, ImageInput, Range
from deploy.plain_graph import plain
from deploy.sessions.onnxruntime import open_graph
from deploy.wrapping import free_names, wrapped

_FLOATS = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16}
_THROUGH = ("Cast", "Squeeze", "Unsqueeze", "Identity", "Reshape")
"""What may stand between an ArgMax and the output."""

_LIMIT = 2**31
"""Bytes that fit into one protobuf file."""


class Wanted(NamedTuple):
    """What an ONNX file does not say.

    Attributes:
        name: of the model.
        classes: names in the order of the class numbers; empty numbers them.
        normalisation: what the graph expects to be done to RGB values of 0..255 before it.
        size: (height, width) for a graph that leaves them open; None takes the graph's own.
        fit: how images are brought to that size.
        output: the scores or class map to take; None where there is one alone.
    """

    name: str
    classes: Sequence[str]
    normalisation: Normalisation
    size: tuple[int, int] | None
    fit: Fit
    output: str | None


class Adopted(NamedTuple):
    """A graph under the contract.

    Attributes:
        files: class_map.onnx and logits.onnx.
        contract: what they take and give.
        model: the graph as it was, its nodes named and its constants among the weights.
        output: of that graph, the one that was taken.
        scores: the tensor of that graph that classes are compared by.
    """

    files: dict[str, bytes]
    contract: Contract
    model: onnx.ModelProto
    output: str
    scores: str


def adopt(path: Path, wanted: Wanted) -> Adopted:
    """Put an ONNX file under the contract.

    Raises:
        UserError: it cannot be read or run, holds an operator that ONNX does not define, takes anything but
            one float (B, 3, H, W), gives no scores of classes, or leaves sizes open that were not asked for.
    """
    model = plain(path)
    given = _image_input(model, path)
    size = _size(given, wanted.size, path)
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    batch = _set_shape(fixed, size, path)
    output, scores, shape = _scores(fixed, wanted.output, path)
    classes = list(wanted.classes) or [f"class_{number}" for number in range(shape[1])]
    if len(classes) != shape[1]:
        raise UserError(f"{path} tells {shape[1]} classes apart, --classes names {len(classes)}")
    names = free_names(fixed)
    both = wrapped(fixed, scores, shape, size, wanted.normalisation, batch, names)
    twins = {
        CLASS_MAP: graph.with_output(both, both.graph.output[0]),
        LOGITS: graph.with_output(both, both.graph.output[1]),
    }
    files = {name: _bytes(twin, path) for name, twin in twins.items()}
    contract = Contract(
        model=wanted.name,
        input=ImageInput(
            name=names[0], dtype="uint8", layout="NHWC", batch=batch, height=size[0], width=size[1]
        ),
        output=ClassMapOutput(name=names[1], dtype="uint8"),
        logits=names[2],
        classes=classes,
        palette=[voc_colour(number) for number in range(shape[1])],
        ignore_index=255,
        normalisation=wanted.normalisation,
        geometry=Geometry(size=size, fit=wanted.fit),
        parameters=max(1, graph.weight_elements(model)),
        opset=graph.opset(both),
        weights_sha256=_weights_sha256(path),
        graphs={name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())},
    )
    return Adopted(files, contract, model, output, scores)


def _image_input(model: onnx.ModelProto, path: Path) -> onnx.ValueInfoProto:
    """The only input, if it is float (B, 3, H, W)."""
    shown = ", ".join(
        f"{value.name} {TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()} {_shape(value)}"
        for value in model.graph.input
    )
    lengths = _lengths(model.graph.input[0]) if len(model.graph.input) == 1 else []
    kind = model.graph.input[0].type.tensor_type.elem_type if lengths else 0
    if len(lengths) != 4 or lengths[1] not in (3, None) or kind not in _FLOATS:
        raise UserError(
            f"{path} takes {shown or 'nothing'}; it must take one float32 or float16 (B, 3, H, W): export "
            "the network without what prepares its images, and say that by --mean, --std and --order"
        )
    given: onnx.ValueInfoProto = model.graph.input[0]
    return given


def _lengths(value: onnx.ValueInfoProto) -> list[int | None]:
    dims = value.type.tensor_type.shape.dim
    # Some exporters write an open length as -1.
    return [dim.dim_value if dim.dim_value > 0 else None for dim in dims]


def _shape(value: onnx.ValueInfoProto) -> str:
    return "x".join("?" if length is None else str(length) for length in _lengths(value))


def _size(given: onnx.ValueInfoProto, asked: tuple[int, int] | None, path: Path) -> tuple[int, int]:
    height, width = _lengths(given)[2:]
    if asked is not None:
        if height not in (None, asked[0]) or width not in (None, asked[1]):
            raise UserError(
                f"{path} takes {_shape(given)}, --size asks for {asked[0]}x{asked[1]}; leave it out"
            )
        return asked
    if height is None or width is None:
        raise UserError(f"{path} takes {_shape(given)}; say with --size HEIGHT WIDTH which size it is for")
    return height, width


def _set_shape(model: onnx.ModelProto, size: tuple[int, int], path: Path) -> Range:
    """Write the size into the input, in place; the batches that the graph runs."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim, length in zip(dims[1:], (3, *size), strict=True):
        dim.dim_value = length
    if dims[0].dim_value > 0:
        if dims[0].dim_value != 1:
            raise UserError(
                f"{path} takes batches of {dims[0].dim_value}; export it for one image, or with an open batch"
            )
        return Range(min=1, max=1)
    dims[0].dim_param = "batch"
    try:
        values = _run(model, [value.name for value in model.graph.output], 2, path)
    except UserError:  # open by name only; what does not run with one image either, is told later
        values = []
    if values and all(value.shape[:1] == (2,) for value in values):
        return Range(min=1, max=None)
    dims[0].dim_value = 1
    return Range(min=1, max=1)


def _run(model: onnx.ModelProto, outputs: Sequence[str], batch: int, path: Path) -> list[npt.NDArray[Any]]:
    """The outputs for black images."""
    session = open_graph(_bytes(model, path), str(path), threads=1)
    given = model.graph.input[0]
    shape = (batch, *(dim.dim_value for dim in given.type.tensor_type.shape.dim[1:]))
    feed = np.zeros(shape, dtype=_FLOATS[given.type.tensor_type.elem_type])
    try:
        return [np.asarray(value) for value in session.run(list(outputs), {given.name: feed})]
    except Exception as error:  # onnxruntime's exceptions share no base below this
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} does not run at {'x'.join(map(str, shape))}: {reason}") from error


def _scores(model: onnx.ModelProto, asked: str | None, path: Path) -> tuple[str, str, tuple[int, ...]]:
    """The output that is taken, the tensor of scores behind it, and the shape of that."""
    outputs = [value.name for value in model.graph.output]
    if asked is not None and asked not in outputs:
        raise UserError(f"{path} has no output {asked!r}; there are {', '.join(outputs)}")
    behind = {name: _before_argmax(model, name) for name in ([asked] if asked else outputs)}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = set(outputs)
    for tensor in behind.values():
        if tensor not in known:
            probe.graph.output.append(helper.make_empty_tensor_value_info(tensor))
            known.add(tensor)
    values = dict(zip(behind, _run(probe, list(behind.values()), 1, path), strict=True))
    good = [name for name, value in values.items() if _is_scores(value)]
    if len(good) > 1:
        raise UserError(f"{path} gives several scores: {', '.join(good)}; choose one with --output")
    if not good:
        shown = ", ".join(f"{name} {value.dtype} {value.shape}" for name, value in values.items())
        raise UserError(
            f"{path} gives {shown}; needed are scores of 2 to 255 classes, float (B, K, h, w), or a class "
            "map that an ArgMax over them makes"
        )
    return good[0], behind[good[0]], values[good[0]].shape


def _is_scores(value: npt.NDArray[Any]) -> bool:
    return value.dtype.kind == "f" and value.ndim == 4 and 2 <= value.shape[1] <= 255


def _before_argmax(model: onnx.ModelProto, name: str) -> str:
    """What an ArgMax over classes reads, where the output comes from one; else the output."""
    makers = {made: node for node in model.graph.node for made in node.output}
    tensor = name
    while tensor in makers and makers[tensor].op_type in _THROUGH:
        tensor = makers[tensor].input[0]
    maker = makers.get(tensor)
    if maker is None or maker.op_type != "ArgMax":
        return name
    axis = next((attribute.i for attribute in maker.attribute if attribute.name == "axis"), 0)
    return maker.input[0] if axis in (1, -3) else name


def _weights_sha256(path: Path) -> str:
    """Of the file; where weights lie beside it, of its hash and theirs."""
    hashes = [sha256(file) for file in (path, *(path.parent / name for name in graph.outside(path)))]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _bytes(model: onnx.ModelProto, path: Path) -> bytes:
    if model.ByteSize() >= _LIMIT:
        raise UserError(
            f"{path} has {model.ByteSize()} bytes; a graph of 2 GB or more cannot be worked on here"
        )
    return graph.to_bytes(model)
