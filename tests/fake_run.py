"""A run without training: engines that read the class off the red channel, on images painted for the purpose.

The teacher copies the channel; students see no class above 1. So every score is known beforehand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from afdcd.config import Normalisation
from afdcd.files import sha256, write_json, write_text
from deploy.bundle import (
    CLASS_MAP,
    LOGITS,
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
from pipeline import benchmark, evaluate, paths
from pipeline.params import load
from pipeline.results import collect
from pipeline.scoring import PREDICTIONS, reference_logits, save, score

CLASSES = ["road", "sky", "car"]
SIZE = (8, 16)
TARGET = "ort_cpu_fp32"
MODELS = ["teacher", "narrow_r18_alone_0", "narrow_r18_kd_0"]
RELEASED = "narrow_r18_kd_0"
CURVE = """iteration,seconds,lr,images_per_second,loss,cross_entropy,weighted/cross_entropy,val_miou
1,0.5,0.01,16,2.5,2.5,2.5,
2,1.0,0.005,16,1.5,1.5,1.5,0.25
"""


def write_data(folder: Path, per_split: int = 5) -> None:
    """A prepared folder: each image holds the three classes, its labels are its red channel."""
    rows: list[dict[str, Any]] = []
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for index in range(per_split):
            classes = random.permuted(np.repeat(np.arange(3, dtype=np.uint8), 48))[:128].reshape(SIZE)
            name = f"{split}_{index}"
            for kind, pixels in (("image", np.stack([classes] * 3, axis=-1)), ("mask", classes)):
                (folder / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / kind / f"{name}.png")
            files = {kind: f"{kind}/{name}.png" for kind in ("image", "mask")}
            hashes = {f"{kind}_sha256": sha256(folder / file) for kind, file in files.items()}
            rows.append(
                {"name": name, "split": split, "height": SIZE[0], "width": SIZE[1], **files, **hashes}
            )
    splits = dict.fromkeys(("train", "val", "test"), per_split)
    info = {
        "name": "painted",
        "classes": CLASSES,
        "palette": [[128, 64, 128], [70, 130, 180], [0, 0, 142]],
        "label_map": [*range(3), *[255] * 253],
        "ignore_index": 255,
        "licence": "CC0",
        "mask_colours": None,
        "root": None,
        "splits": splits,
        "class_pixels": {split: [1, 1, 1] for split in splits},
        "class_image_pixels": {split: [1, 1, 1] for split in splits},
        "ignored_pixels": dict.fromkeys(splits, 0),
    }
    write_json(folder / "dataset.json", info)
    write_text(folder / "manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def contract(model: str) -> Contract:
    """The contract of a fake engine."""
    return Contract(
        model=model,
        input=ImageInput(
            name="images",
            dtype="uint8",
            layout="NHWC",
            batch=Range(min=1, max=None),
            height=SIZE[0],
            width=SIZE[1],
        ),
        output=ClassMapOutput(name="class_map", dtype="uint8"),
        logits="logits",
        classes=CLASSES,
        palette=[(128, 64, 128), (70, 130, 180), (0, 0, 142)],
        ignore_index=255,
        normalisation=Normalisation(order="rgb", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        geometry=Geometry(size=SIZE, fit="stretch"),
        parameters=1,
        opset=20,
        weights_sha256="0" * 64,
        graphs={},
    )


def write_engine(folder: Path, model: str, highest: int, target: str = TARGET) -> None:
    """A bundle whose engine answers min(red, highest); its twin gives minus the squared distance from it."""
    value = helper.make_tensor_value_info
    constants = {"channel": np.array(0), "highest": np.array(highest, dtype=np.uint8)}
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["images", "channel"], ["red"], axis=3),
            helper.make_node("Min", ["red", "highest"], ["class_map"]),
        ],
        "red",
        [value("images", TensorProto.UINT8, ["batch", *SIZE, 3])],
        [value("class_map", TensorProto.UINT8, ["batch", *SIZE])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    folder.mkdir(parents=True)
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), folder / CLASS_MAP)
    _write_twin(folder / LOGITS, constants)
    manifest = Manifest(
        format=1,
        model=model,
        target=target,
        backend="onnxruntime",
        precision="fp32",
        threads=1,
        contract=contract(model),
        files=describe(folder, [CLASS_MAP, LOGITS]),
        quantisation={},
        parity={},
        hardware={},
        versions={},
        measured=None,
    )
    write_model(folder / MANIFEST, manifest)


def _write_twin(path: Path, constants: dict[str, Any]) -> None:
    value = helper.make_tensor_value_info
    numbers = np.arange(len(CLASSES), dtype=np.float32).reshape(1, -1, 1, 1)
    constants = constants | {"numbers": numbers, "axis": np.array([1])}
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["images", "channel"], ["red"], axis=3),
            helper.make_node("Min", ["red", "highest"], ["seen"]),
            helper.make_node("Cast", ["seen"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["float", "axis"], ["planes"]),
            helper.make_node("Sub", ["planes", "numbers"], ["distance"]),
            helper.make_node("Mul", ["distance", "distance"], ["squared"]),
            helper.make_node("Neg", ["squared"], ["logits"]),
        ],
        "red_logits",
        [value("images", TensorProto.UINT8, ["batch", *SIZE, 3])],
        [value("logits", TensorProto.FLOAT, ["batch", len(CLASSES), *SIZE])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)


def write_project(root: Path, params_text: str, **gates: Any) -> None:
    """params.yaml, data and engines of a run, up to the stage `build`."""
    params = yaml.safe_load(params_text)
    params["deploy"] |= {"models": MODELS, "targets": [TARGET], "release": [RELEASED]}
    params["deploy"]["benchmark"] |= {"iterations": 5, "rounds": 3, "warmup": 2}
    params["distill"]["run"] = ["kd"]
    open_gates = {"min_retention": 0.1, "min_speedup_over_teacher": None}
    params["gates"] |= open_gates | gates
    (root / paths.PARAMS).write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    write_data(root / paths.PREPARED)
    for model in MODELS:
        write_engine(root / paths.engine(TARGET, model), model, highest=2 if model == "teacher" else 1)


def write_references() -> None:
    """PyTorch's scores, here those of the engines themselves; in the working folder."""
    for model in MODELS:
        with open_session(paths.engine(TARGET, model), threads=1) as session:
            found = score(session, model, reference=None, gallery=None, engine=None)
            logits = reference_logits(session)
        save(paths.reference(model), found, PREDICTIONS, logits=logits)


def complete() -> None:
    """Everything up to the stage `report`, by the stages themselves, in the working folder."""
    write_references()
    for model in MODELS:
        evaluate.main([TARGET, model])
    benchmark.main([TARGET])
    for model in MODELS:
        write_text(paths.curve(model), CURVE)
    write_json(paths.HARDWARE, {"cpu": {"model": "Some CPU"}})
    size = {"parameters": 1234, "gmacs": 0.5, "counted_as_zero": ["max_pool2d"]}
    write_json(paths.COMPLEXITY, {"networks": {"teacher": size, "narrow_r18": size}})


def judged() -> None:
    """The part of the stage `report` that `gate` reads."""
    judgement = collect(load()).judgement()
    write_json(paths.GATES, judgement.model_dump(mode="json"))
