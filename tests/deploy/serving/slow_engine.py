"""An engine that takes its time: the painter's answer, after matrix products that add nothing to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from fake_run import write_engine
from onnx import TensorProto, helper, numpy_helper

from deploy.bundle import CLASS_MAP, MANIFEST, describe, read_manifest, write_model

WIDTH = 384


def write_slow_engine(folder: Path, model: str, highest: int, products: int) -> None:
    """Each product takes some milliseconds of one core."""
    write_engine(folder, model, highest=highest)
    loaded = onnx.load(folder / CLASS_MAP)
    graph = loaded.graph
    graph.node[-1].output[0] = "painted"
    graph.initializer.extend(
        numpy_helper.from_array(value, name)
        for name, value in (
            ("zero", np.zeros((), np.float32)),
            ("zeros", np.zeros((WIDTH, WIDTH), np.float32)),
        )
    )
    make = helper.make_node
    graph.node.extend(
        [
            make("Cast", ["red"], ["float"], to=TensorProto.FLOAT),
            make("ReduceMax", ["float"], ["most"], keepdims=0),
            make("Mul", ["most", "zero"], ["nothing"]),
            make("Add", ["zeros", "nothing"], ["product0"]),
            *(make("MatMul", [f"product{n}"] * 2, [f"product{n + 1}"]) for n in range(products)),
            make("ReduceMax", [f"product{products}"], ["result"], keepdims=0),
            make("Cast", ["result"], ["none"], to=TensorProto.UINT8),
            make("Add", ["painted", "none"], ["class_map"]),
        ]
    )
    onnx.save(loaded, folder / CLASS_MAP)
    manifest = read_manifest(folder)
    files = describe(folder, manifest.files)
    write_model(folder / MANIFEST, manifest.model_copy(update={"files": files}))
