"""Engines of uint8 256x512 that cost what is asked: bundles around graphs made here, for `serving.py`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from afdcd.config import Normalisation
from deploy.bundle import (
    CLASS_MAP,
    MANIFEST,
    ClassMapOutput,
    Contract,
    Geometry,
    ImageInput,
    Manifest,
    Range,
    describe,
    write_model,
)
from deploy.sessions import open_session

SIZE = (256, 512)
HEAVY_MS, WIDTH = 20.0, 384
Call = Callable[[], Any]


def write_bundle(folder: Path, model: str, products: int) -> Path:
    """An engine whose class map is the first third of its input, after so many matrix products."""
    pixels = SIZE[0] * SIZE[1]
    constants = {
        "flat": np.array([-1, 3 * pixels]),
        "start": np.array([0]),
        "end": np.array([pixels]),
        "axis": np.array([1]),
        "map": np.array([-1, *SIZE]),
    }
    nodes = [
        helper.make_node("Reshape", ["images", "flat"], ["bytes"]),
        helper.make_node("Slice", ["bytes", "start", "end", "axis"], ["cut"]),
        helper.make_node("Reshape", ["cut", "map"], ["class_map" if not products else "painted"]),
    ]
    if products:
        constants["zeros"] = np.zeros((WIDTH, WIDTH), np.float32)
        constants["zero"] = np.zeros((), np.float32)
        nodes += [
            helper.make_node("Cast", ["cut"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["float"], ["most"], keepdims=0),
            helper.make_node("Mul", ["most", "zero"], ["nothing"]),
            helper.make_node("Add", ["zeros", "nothing"], ["product0"]),
            *(helper.make_node("MatMul", [f"product{n}"] * 2, [f"product{n + 1}"]) for n in range(products)),
            helper.make_node("ReduceMax", [f"product{products}"], ["last"], keepdims=0),
            helper.make_node("Cast", ["last"], ["none"], to=TensorProto.UINT8),
            helper.make_node("Add", ["painted", "none"], ["class_map"]),
        ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "load",
        [value("images", TensorProto.UINT8, ["batch", *SIZE, 3])],
        [value("class_map", TensorProto.UINT8, ["batch", *SIZE])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    folder.mkdir(parents=True)
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), folder / CLASS_MAP)
    contract = Contract(
        model=model,
        input=ImageInput(
            name="images",
            dtype="uint8",
            layout="NHWC",
            batch=Range(min=1, max=1),
            height=SIZE[0],
            width=SIZE[1],
        ),
        output=ClassMapOutput(name="class_map", dtype="uint8"),
        logits="logits",
        classes=["a"],
        palette=[(0, 0, 0)],
        ignore_index=255,
        normalisation=Normalisation(order="rgb", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        geometry=Geometry(size=SIZE, fit="stretch"),
        parameters=1,
        opset=20,
        weights_sha256="0" * 64,
        graphs={},
    )
    manifest = Manifest(
        format=1,
        model=model,
        target="ort_cpu_fp32",
        backend="onnxruntime",
        precision="fp32",
        threads=1,
        contract=contract,
        files=describe(folder, [CLASS_MAP]),
        quantisation={},
        parity={},
        hardware={},
        versions={},
        measured=None,
    )
    write_model(folder / MANIFEST, manifest)
    return folder


def cpu_ms(call: Call, times: int) -> float:
    """CPU time of this process a call."""
    for _ in range(3):
        call()
    start = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - start) / times * 1e3


def heavy(folder: Path, images: np.ndarray) -> Path:
    """An engine of about `HEAVY_MS` here."""
    with open_session(write_bundle(folder / "trial", "trial", 10), threads=1) as session:
        found = cpu_ms(lambda: session.infer(images), 30)
    return write_bundle(folder / "heavy", "heavy", max(1, round(10 * HEAVY_MS / found)))
