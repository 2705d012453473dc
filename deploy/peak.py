"""What this machine's cores reach at best: the speed that a network's is held against.

Measured with the engine itself on graphs that suit it, a large matrix product and a wide convolution, since a
product by PyTorch takes a slow path on AMD. It is the best that ONNX Runtime or OpenVINO were seen to do, not
the processor's theoretical peak, and so a lower bound of that.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from deploy.anyones import open_file
from deploy.sessions.capability import capability
from deploy.work import Peak

SIDE = 1024
"""Of the square matrices."""

CHANNELS, CELLS = 256, 48
"""Of the convolution of 3 x 3, on a square image."""

CALLS = 5
"""Timed calls of each graph; the fastest counts."""


PRECISIONS = ("fp32", "bf16", "int8")
"""Those that a peak can be measured in."""


def measure(threads: int, precisions: Sequence[str] = PRECISIONS) -> Peak:
    """Measure these precisions; about three seconds each."""
    engines: dict[str, list[str]] = {"fp32": ["onnxruntime"], "bf16": [], "int8": ["onnxruntime"]}
    if find_spec("openvino") is not None:
        engines["fp32"].append("openvino")
        if capability("openvino", "bf16") is None:
            engines["bf16"].append("openvino:bf16")
    engines = {precision: engines[precision] for precision in precisions}
    gflops: dict[str, float | None] = dict.fromkeys(engines)
    by: dict[str, str | None] = dict.fromkeys(engines)
    with tempfile.TemporaryDirectory(prefix="peak-") as folder:
        for precision, names in engines.items():
            for name in names:
                for what, (model, operations) in _graphs(precision).items():
                    path = Path(folder) / "graph.onnx"
                    onnx.save(model, path)
                    (call,) = open_file(path, name, threads=threads)
                    reached = operations / _fastest(call) / 1e9
                    if reached > (gflops[precision] or 0.0):
                        gflops[precision], by[precision] = round(reached, 1), f"{name}, {what}"
    return Peak(threads=threads, gflops=gflops, by=by)


def _fastest(call: Callable[[], object]) -> float:
    """Seconds of the fastest call."""
    call()
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def _graphs(precision: str) -> dict[str, tuple[onnx.ModelProto, float]]:
    """Graphs with their operations a call."""
    product = 2.0 * SIDE**3
    if precision == "int8":
        weights = np.random.default_rng(0).integers(-127, 128, (SIDE, SIDE), dtype=np.int8)
        made = _one("MatMulInteger", TensorProto.UINT8, (SIDE, SIDE), weights, TensorProto.INT32)
        return {f"MatMulInteger {SIDE}": (made, product)}
    random = np.random.default_rng(0).standard_normal
    square = random((SIDE, SIDE)).astype(np.float32)
    kernel = random((CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
    image = (1, CHANNELS, CELLS, CELLS)
    inside = (CELLS - 2) ** 2
    return {
        f"MatMul {SIDE}": (_one("MatMul", TensorProto.FLOAT, (SIDE, SIDE), square), product),
        f"Conv 3x3 of {CHANNELS}": (
            _one("Conv", TensorProto.FLOAT, image, kernel),
            2.0 * 9 * CHANNELS**2 * inside,
        ),
    }


def _one(
    operator: str,
    kind: int,
    shape: tuple[int, ...],
    weights: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    | np.ndarray[tuple[int, ...], np.dtype[np.int8]],
    result: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"])],
        "peak",
        [value("x", kind, shape)],
        [value("y", result, [None] * len(shape))],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
