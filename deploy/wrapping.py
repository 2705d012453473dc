"""The nodes of the contract around a graph: bytes become what it takes, its scores logits and a class map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from afdcd.config import Normalisation
from deploy import graph
from deploy.bundle import Range

MARK = "contract/"
"""Begins the names of the nodes that are added."""

READER = f"{MARK}float"
"""The node that reads the scores."""


def free_names(model: onnx.ModelProto) -> tuple[str, str, str]:
    """Names of images, class map and logits that the graph does not use."""
    used = {name for node in model.graph.node for name in (*node.input, *node.output)}
    used |= {value.name for value in (*model.graph.input, *model.graph.output, *model.graph.initializer)}

    def free(name: str) -> str:
        while name in used:
            name += "_"
        return name

    return free("images"), free("class_map"), free("logits")


def wrapped(
    model: onnx.ModelProto,
    scores: str,
    shape: tuple[int, ...],
    size: tuple[int, int],
    normalisation: Normalisation,
    batch: Range,
    names: tuple[str, str, str],
) -> onnx.ModelProto:
    """The graph between bytes and class map, with the logits as a second output.

    Args:
        model: takes one float (B, 3, H, W) at `size`.
        scores: its tensor of scores (B, K, h, w).
        shape: of that tensor for one image.
        size: (H, W) of images, class map and logits.
        normalisation: what the graph expects to be done to RGB values of 0..255 before it.
        batch: the batches that the graph runs.
        names: of images, class map and logits (`free_names`).
    """
    given = model.graph.input[0]
    images, class_map, logits = names
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    kind = given.type.tensor_type.elem_type
    before = list(_before(whole, images, given.name, kind, normalisation))
    behind = list(_behind(whole, scores, shape, size, batch, logits))
    behind += [
        helper.make_node("ArgMax", [logits], [f"{MARK}best"], f"{MARK}argmax", axis=1, keepdims=0),
        helper.make_node("Cast", [f"{MARK}best"], [class_map], f"{MARK}bytes", to=TensorProto.UINT8),
    ]
    nodes = [*before, *model.graph.node, *behind]
    for part in (whole.graph.node, whole.graph.input, whole.graph.output, whole.graph.value_info):
        del part[:]
    whole.graph.node.extend(nodes)
    first: Any = "batch" if batch.max is None else 1
    value = helper.make_tensor_value_info
    whole.graph.input.append(value(images, TensorProto.UINT8, [first, *size, 3]))
    whole.graph.output.append(value(class_map, TensorProto.UINT8, [first, *size]))
    whole.graph.output.append(value(logits, TensorProto.FLOAT, [first, shape[1], *size]))
    return graph.canonical(whole)


def _before(
    model: onnx.ModelProto, images: str, last: str, kind: int, normalisation: Normalisation
) -> Iterator[onnx.NodeProto]:
    """Nodes from bytes to what the graph takes, the cast first (for TensorRT); constants go into `model`."""
    steps: list[tuple[str, npt.NDArray[Any] | None, dict[str, Any]]] = [
        ("Cast", None, {"to": TensorProto.FLOAT}),
        ("Transpose", None, {"perm": [0, 3, 1, 2]}),
    ]
    if normalisation.order == "bgr":
        steps.append(("Gather", np.array([2, 1, 0], dtype=np.int64), {"axis": 1}))
    for operator, values, idle in (("Sub", normalisation.mean, 0.0), ("Div", normalisation.std, 1.0)):
        if any(value != idle for value in values):
            steps.append((operator, np.array(values, dtype=np.float32).reshape(1, 3, 1, 1), {}))
    if kind != TensorProto.FLOAT:
        steps.append(("Cast", None, {"to": kind}))
    value = images
    for number, (operator, constant, attributes) in enumerate(steps):
        name = f"{MARK}{number}"
        made = last if number == len(steps) - 1 else name
        inputs = [value]
        if constant is not None:
            model.graph.initializer.append(numpy_helper.from_array(constant, f"{name}_constant"))
            inputs.append(f"{name}_constant")
        yield helper.make_node(operator, inputs, [made], name, **attributes)
        value = made


def _behind(
    model: onnx.ModelProto,
    scores: str,
    shape: tuple[int, ...],
    size: tuple[int, int],
    batch: Range,
    logits: str,
) -> Iterator[onnx.NodeProto]:
    """Nodes from the scores to float32 logits at the input size; constants go into `model`."""

    def constant(name: str, values: Sequence[int]) -> str:
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, dtype=np.int64), MARK + name))
        return MARK + name

    enlarge = tuple(shape[2:]) != size
    made = f"{MARK}scores" if enlarge else logits
    yield helper.make_node("Cast", [scores], [made], READER, to=TensorProto.FLOAT)
    if not enlarge:
        return
    if batch.max is None:
        yield helper.make_node("Shape", [made], [f"{MARK}shape"], f"{MARK}shape")
        inputs = [f"{MARK}shape", constant("first", [0])]
        yield helper.make_node("Gather", inputs, [f"{MARK}batch"], f"{MARK}batch", axis=0)
        inputs = [f"{MARK}batch", constant("rest", [shape[1], *size])]
        yield helper.make_node("Concat", inputs, [f"{MARK}sizes"], f"{MARK}sizes", axis=0)
    sizes = f"{MARK}sizes" if batch.max is None else constant("sizes", [1, shape[1], *size])
    yield helper.make_node(
        "Resize",
        [made, "", "", sizes],
        [logits],
        f"{MARK}resize",
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
