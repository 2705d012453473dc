"""What a precision costs: mIoU of a trained network on val and test, on every engine of a CPU.

python benchmarks/precisions.py models/exported/MODEL     # in a project whose stages prepare and export ran

INT8 is calibrated, chosen on val and recorded as the stage `quantize` does, with the settings of params.yaml.
TensorRT's INT8 graph runs in ONNX Runtime. Where the CPU computes no bfloat16, bf16 is the graph typed in it,
run in float32 with a rounding behind every operator.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from afdcd.data.manifest import Manifest, evaluation_samples
from deploy.bundle import CLASS_MAP, Contract, checked_bytes, read_contract
from deploy.config import Precision
from deploy.evaluate import Infers, Sample, Score, evaluate
from deploy.precision import emulated, variant
from deploy.quantisation import Quantisation
from deploy.quantize import quantize
from deploy.sessions import open_backend
from deploy.sessions.capability import capability
from pipeline import paths
from pipeline.params import load
from pipeline.quantize import calibration_images

INT8 = ("onnxruntime", "openvino", "tensorrt")


class Emulation:
    """A graph typed in bf16, with optimisation off, which would drop pairs of casts."""

    def __init__(self, content: bytes) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        model = emulated(onnx.load_from_string(content))
        self._session = ort.InferenceSession(model.SerializeToString(), options)

    def infer(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Class map of images."""
        (name,) = (given.name for given in self._session.get_inputs())
        return np.asarray(self._session.run(None, {name: images})[0])


@contextmanager
def opened(
    backend: str, contract: Contract, files: dict[str, bytes], precision: Precision
) -> Iterator[Infers]:
    with open_backend(backend, contract, files.__getitem__, threads=1, precision=precision) as session:
        yield session


def main(folder: Path) -> None:
    deploy = load().deploy
    contract, manifest = read_contract(folder), Manifest.load(paths.PREPARED)
    exported = {name: checked_bytes(folder / name, known) for name, known in contract.graphs.items()}
    sets: dict[str, list[Sample]] = {
        split: [
            Sample(entry.name, image, labels)
            for entry, image, labels in evaluation_samples(manifest, split, None)
        ]
        for split in ("val", "test")
    }
    maps: dict[str, Any] = {}

    def told(name: str, session: Infers) -> None:
        cells = []
        for split, samples in sets.items():
            found = evaluate(
                session,
                samples,
                classes=contract.classes,
                ignore_index=contract.ignore_index,
                size=contract.geometry.size,
                mode=contract.geometry.fit,
                reference=maps.get(split),
                gallery=len(samples),
            )
            first: Score = floats.setdefault(split, found.score)
            maps.setdefault(split, found.maps)
            drop = 100 * (first.miou - found.score.miou)
            worst = max(
                (before - after)
                for label, before in first.iou.items()
                if before is not None and (after := found.score.iou[label]) is not None
            )
            same = 1.0 if found.score.agreement is None else found.score.agreement
            cells.append(f"{100 * found.score.miou:8.2f}{drop:7.2f}{100 * worst:7.2f}{100 * same:9.2f}")
        print(f"{name:34}{''.join(cells)}", flush=True)

    floats: dict[str, Score] = {}
    heads = "".join(f"{split + ' %':>8}{'drop':>7}{'class':>7}{'same %':>9}" for split in sets)
    print(f"{contract.model}: {len(sets['val'])} val, {len(sets['test'])} test images\n{'engine':34}{heads}")
    with opened("onnxruntime", contract, exported, "fp32") as session:
        told("onnxruntime fp32", session)
    if capability("openvino", "bf16") is None:
        with opened("openvino", contract, exported, "bf16") as session:
            told("openvino bf16", session)
    else:
        told("bf16, emulated", Emulation(variant(exported, "bf16")[CLASS_MAP]))
    records: dict[str, Quantisation] = {}
    judging = [
        Sample(entry.name, image, labels)
        for entry, image, labels in evaluation_samples(manifest, "val", deploy.quantize.val_images)
    ]
    for backend in INT8:
        made = quantize(
            exported,
            contract,
            calibration=calibration_images(
                manifest, contract, deploy.quantize.calibration_images, deploy.seed
            ),
            validation=judging,
            settings=deploy.quantize,
            threads=1,
            backend=backend,
        )
        records[backend] = made.record
        runs = made.record.judged_on or backend
        with opened(runs, contract, made.files, "int8") as session:
            told(f"{backend} int8", session)
    for backend, record in records.items():
        print(f"\n{backend}, on {record.val_images} val images (float {100 * (record.float_miou or 0):.2f}):")
        for candidate in record.candidates:
            mark = "*" if candidate.name == record.chosen else " "
            print(
                f" {mark} {candidate.name:44}{100 * (candidate.miou or 0):7.2f}"
                f"{100 * candidate.agreement:8.2f}{candidate.sqnr_db or 0:7.1f} dB"
            )
        for layer in record.layers[:3]:
            print(f"   {layer.name}: {layer.sqnr_db} dB, {100 * layer.macs:.2f} % of the MACs")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
