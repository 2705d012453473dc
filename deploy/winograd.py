"""3x3 convolutions in half the multiplications: Winograd's F(4, 3) along the rows, in standard operators.

Float convolutions of ONNX Runtime and OpenVINO on a CPU run at what the processor multiplies at best, so less
work is the only way on. Four rows of a result are made from six rows of the image by six 1x3 convolutions
instead of twelve; what comes before and after is additions of whole maps. Results differ in rounding alone.

Source: Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4.3, the matrices of
F(4x4, 3x3), here along one axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploy import graph

WORTH = 60.0
"""Least harmonic size of the channels, inputs * outputs / (inputs + outputs), at no padding: additions grow
with the sum of them, and what is saved with the product."""

NOTE = "winograd"
OPSET = 18
"""The first whose Split and Pad take what is written here."""


def rewrite(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The graph with its larger 3x3 convolutions in this form, and their names; itself where there are none.

    Those of stride 1 over a whole map of known height in float32 are taken. Weights stay as they are, so the
    file keeps its size; engines transform them when they load it. The names stand in a note of the graph.
    """
    if graph.opset(model) < OPSET or written(model):
        return model, []
    shapes = _shapes(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    names = []
    for node in model.graph.node:
        place = _place(node, shapes, weights)
        if place is None:
            result.graph.node.append(node)
        else:
            names.append(node.name)
            result.graph.node.extend(_Written(node, place, result.graph).nodes)
    if not names:
        return model, []
    graph.note(result, {NOTE: "\n".join(names)})
    return graph.canonical(result), names


def written(model: onnx.ModelProto) -> list[str]:
    """The convolutions of a graph that have this form already."""
    key = f"{graph.PRODUCER}.{NOTE}"
    return next((entry.value.split("\n") for entry in model.metadata_props if entry.key == key), [])


class _Place(NamedTuple):
    """Where a convolution stands: channels, rows and columns in, columns out, dilation along the rows."""

    inputs: int
    outputs: int
    height: int
    width: int
    width_out: int
    dilation: int

    @property
    def tiles(self) -> int:
        """Of four rows each, `dilation` apart; the last may lie partly below the map."""
        return -(-self.height // (4 * self.dilation))

    @property
    def padded(self) -> int:
        """Rows of all tiles."""
        return 4 * self.dilation * self.tiles


def _shapes(model: onnx.ModelProto) -> dict[str, list[int | None]]:
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        value.name: [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }


def _place(
    node: onnx.NodeProto, shapes: Mapping[str, list[int | None]], weights: Mapping[str, TensorProto]
) -> _Place | None:
    """Where a convolution stands that gains by this form; None for any other node."""
    if node.op_type != "Conv" or any(name not in weights for name in node.input[1:]):
        return None
    outputs, inputs, *kernel = weights[node.input[1]].dims
    told: dict[str, Any] = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    dilation = told.get("dilations", [1, 1])[0]
    pads = told.get("pads", [0, 0, 0, 0])
    fits = (
        kernel == [3, 3]
        and told.get("group", 1) == 1
        and told.get("auto_pad", b"NOTSET") == b"NOTSET"
        and list(told.get("strides", [1, 1])) == [1, 1]
        and pads[0] == pads[2] == dilation
    )
    given, made = shapes.get(node.input[0], []), shapes.get(node.output[0], [])
    sides = [side for side in (*given[2:], *made[3:]) if side is not None]
    if not fits or len(sides) != 3:
        return None
    height, width, width_out = sides
    place = _Place(inputs, outputs, height, width, width_out, dilation)
    share = 2 * place.height / place.padded - 1
    return place if share * inputs * outputs / (inputs + outputs) >= WORTH else None


class _Written:
    """The nodes that stand for a convolution; the last has its output's name, constants go into `into`."""

    def __init__(self, node: onnx.NodeProto, place: _Place, into: onnx.GraphProto) -> None:
        self._node, self._place, self._into = node, place, into
        self.nodes: list[onnx.NodeProto] = []
        self._made = 0
        d1, d2, d3, d4 = self._rows()
        d0, d5 = self._shifted(d4, 1), self._shifted(d1, -1)
        kernels = self._kernels()
        maps = [
            self._convolved(number, rows, kernel)
            for number, (rows, kernel) in enumerate(
                zip(self._inputs(d0, d1, d2, d3, d4, d5), kernels, strict=True)
            )
        ]
        self._joined(*self._outputs(*maps))

    def _rows(self) -> list[str]:
        """The map as four of its rows, of each tile: (B, inputs, tiles, 1, dilation * width)."""
        place, source = self._place, self._node.input[0]
        if place.padded > place.height:
            below = [0, 0, 0, 0, 0, 0, place.padded - place.height, 0]
            source = self._op("Pad", source, self._integers("below", below))
        shape = [0, place.inputs, place.tiles, 4, place.dilation * place.width]
        return self._split(self._op("Reshape", source, self._integers("tiles", shape)), 4, axis=3)

    def _shifted(self, rows: str, by: int) -> str:
        """The same row of the tile before (1) or behind (-1); nothing lies beyond the first and the last."""
        pads = self._integers("before" if by > 0 else "behind", [by, -by])
        return self._op("Pad", rows, pads, "", self._integers("tile_axis", [2]))

    def _inputs(self, d0: str, d1: str, d2: str, d3: str, d4: str, d5: str) -> Iterator[str]:
        """The transposed B of the paper, times rows."""
        four = self._number("four", 4)
        difference, step = self._op("Sub", d4, d2), self._op("Sub", d3, d1)
        twice = self._op("Add", step, step)
        even = self._op("Sub", d4, self._op("Mul", d2, four))
        odd = self._op("Sub", d3, self._op("Mul", d1, four))
        yield self._op("Add", self._op("Mul", self._op("Sub", d0, d2), four), difference)
        yield self._op("Add", even, odd)
        yield self._op("Sub", even, odd)
        yield self._op("Add", difference, twice)
        yield self._op("Sub", difference, twice)
        yield self._op("Sub", self._op("Sub", d5, d3), self._op("Mul", step, four))

    def _kernels(self) -> Iterator[str]:
        """The G of the paper, times the rows of the weight: six of (outputs, inputs, 1, 3)."""
        w0, w1, w2 = self._split(self._node.input[1], 3, axis=2)
        ends = self._op("Add", w0, w2)
        sixth, uneven = self._number("sixth", 1 / 6), self._op("Mul", w2, self._number("sixth", 1 / 6))
        sloped = self._op("Add", self._op("Mul", w0, self._number("24th", 1 / 24)), uneven)
        middle = self._op("Mul", w1, self._number("twelfth", 1 / 12))
        yield self._op("Mul", w0, self._number("quarter", 1 / 4))
        yield self._op("Mul", self._op("Add", ends, w1), self._number("minus_sixth", -1 / 6))
        yield self._op("Mul", self._op("Sub", w1, ends), sixth)
        yield self._op("Add", sloped, middle)
        yield self._op("Sub", sloped, middle)
        yield w2

    def _convolved(self, number: int, rows: str, kernel: str) -> str:
        """One of the six maps; the second enters every result once, so it brings the bias along."""
        place, told = self._place, {entry.name: entry for entry in self._node.attribute}
        shape = [0, place.inputs, place.tiles * place.dilation, place.width]
        given = [self._op("Reshape", rows, self._integers("maps", shape)), kernel]
        if number == 1 and len(self._node.input) > 2:
            given.append(self._node.input[2])
        left, right = (told["pads"].ints[side] for side in (1, 3))
        across = told["dilations"].ints[1] if "dilations" in told else 1
        return self._op("Conv", *given, kernel_shape=[1, 3], pads=[0, left, 0, right], dilations=[1, across])

    def _outputs(self, m0: str, m1: str, m2: str, m3: str, m4: str, m5: str) -> Iterator[str]:
        """The transposed A of the paper, times maps: four rows of each tile."""
        two, four, eight = (self._number(name, n) for name, n in (("two", 2), ("four", 4), ("eight", 8)))
        first, second = self._op("Add", m1, m2), self._op("Add", m3, m4)
        third, fourth = self._op("Sub", m1, m2), self._op("Sub", m3, m4)
        yield self._op("Add", self._op("Add", m0, first), second)
        yield self._op("Add", third, self._op("Mul", fourth, two))
        yield self._op("Add", first, self._op("Mul", second, four))
        yield self._op("Add", self._op("Add", third, self._op("Mul", fourth, eight)), m5)

    def _joined(self, *rows: str) -> None:
        """The rows of all tiles in their order, as the convolution's output."""
        place, output = self._place, self._node.output[0]
        shape = self._integers("tile", [0, place.outputs, place.tiles, 1, place.dilation * place.width_out])
        whole = self._op("Concat", *[self._op("Reshape", one, shape) for one in rows], axis=3)
        size = self._integers("whole", [0, place.outputs, place.padded, place.width_out])
        if place.padded == place.height:
            self._op("Reshape", whole, size, output=output)
        else:
            rest = [
                self._integers(name, [n]) for name, n in (("from", 0), ("to", place.height), ("row_axis", 2))
            ]
            self._op("Slice", self._op("Reshape", whole, size), *rest, output=output)

    def _op(self, kind: str, *given: str, output: str | None = None, **told: Any) -> str:
        made = output or self._fresh()
        name = self._node.name if output else made
        self.nodes.append(helper.make_node(kind, list(given), [made], name=name, **told))
        return made

    def _split(self, whole: str, parts: int, *, axis: int) -> list[str]:
        made = [self._fresh() for _ in range(parts)]
        self.nodes.append(
            helper.make_node("Split", [whole], made, name=made[0], axis=axis, num_outputs=parts)
        )
        return made

    def _fresh(self) -> str:
        self._made += 1
        return f"{self._node.output[0]}_winograd_{self._made}"

    def _integers(self, what: str, values: list[int]) -> str:
        return self._constant(what, np.array(values, dtype=np.int64))

    def _number(self, what: str, value: float) -> str:
        return self._constant(what, np.array(value, dtype=np.float32))

    def _constant(self, what: str, value: np.ndarray[Any, Any]) -> str:
        name = f"{self._node.output[0]}_winograd_{what}"
        if all(tensor.name != name for tensor in self._into.initializer):
            self._into.initializer.append(numpy_helper.from_array(value, name))
        return name
