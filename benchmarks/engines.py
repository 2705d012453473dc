"""Engines of one CPU on networks of the pairs: CPU time of an image, as ratios to eager PyTorch.

python benchmarks/engines.py                         # DeepLabV3-R18 and -MobileNetV2, 512x1024: ten minutes
python benchmarks/engines.py 256x512 3 dlv3_r18      # another size, rounds, networks

One image a call, one thread. The forms take turns, so that all meet the same machine, and the CPU time of the
process is told, which other work on the machine hardly changes; a ratio is the median over rounds of ratios
in the same round. Weights are random: for accuracy see `python -m deploy evaluate`. Eager PyTorch is measured
in both layouts, since channels_last is not always the faster one; ratios count from channels_last.
INT8 of ONNX Runtime is calibrated on noise, which changes no speed.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from afdcd.config import ModelConfig
from afdcd.models.segmenter import build_segmenter
from deploy import graph, qdq
from deploy.bundle import CLASS_MAP, ClassMapOutput, Contract, Geometry, ImageInput, Range
from deploy.export import Deployable, export
from deploy.presets import PRESETS
from deploy.sessions import open_backend
from deploy.sessions.capability import PRECISIONS, capability

CLASSES = 19
PAIRS = Path(__file__).parents[1] / "conf" / "pair"
Call = Callable[[], Any]


def _config(student: str) -> ModelConfig:
    for file in sorted(PAIRS.glob("*.yaml")):
        students = yaml.safe_load(file.read_text(encoding="utf-8"))["students"]
        if student in students:
            return ModelConfig.model_validate({**students[student], "pretrained": "none"})
    raise SystemExit(f"no pair has a student {student!r}")


def _contract(name: str, config: ModelConfig, network: torch.nn.Module, size: tuple[int, int]) -> Contract:
    height, width = size
    free = Range(min=1, max=None)
    return Contract(
        model=name,
        input=ImageInput(name="images", dtype="uint8", layout="NHWC", batch=free, height=height, width=width),
        output=ClassMapOutput(name="class_map", dtype="uint8"),
        logits="logits",
        classes=[f"class_{number}" for number in range(CLASSES)],
        palette=[(number, number, number) for number in range(CLASSES)],
        ignore_index=255,
        normalisation=config.normalisation,
        geometry=Geometry(size=size, fit="stretch"),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        opset=20,
        weights_sha256="0" * 64,
        graphs={},
    )


def _eager(network: torch.nn.Module, image: np.ndarray, *, channels_last: bool) -> Call:
    module = Deployable(network).eval()
    if channels_last:
        module = module.to(memory_format=torch.channels_last)
    pixels = torch.from_numpy(image)

    def call() -> Any:
        with torch.inference_mode():
            return module(pixels)[0]

    return call


def _int8(files: dict[str, bytes], image: np.ndarray) -> dict[str, bytes]:
    import onnx

    model = qdq.flatten_normalisation(onnx.load_from_string(files[CLASS_MAP]))
    ranges = qdq.ranges(model, image, method="minmax", percentile=99.99, what="calibration")
    return {CLASS_MAP: graph.to_bytes(graph.canonical(qdq.insert(model, ranges)))}


def forms(name: str, size: tuple[int, int], stack: ExitStack) -> dict[str, Call]:
    """Eager PyTorch in both layouts, and every engine that this machine runs."""
    config = _config(name)
    torch.manual_seed(0)
    network = build_segmenter(config, CLASSES).deployed()
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    exported = export(network, _contract(name, config, network, size))
    found: dict[str, Call] = {
        "eager channels_last": _eager(network, image, channels_last=True),
        "eager": _eager(network, image, channels_last=False),
    }
    for backend, possible in PRECISIONS.items():
        for precision in possible:
            int8 = precision == "int8"
            if backend == "pytorch" or capability(backend, precision) or (int8 and backend != "onnxruntime"):
                continue
            assert int8 or PRESETS[backend, precision] == "none"  # type: ignore[index]
            files = _int8(exported.files, image) if int8 else exported.files
            session = open_backend(
                backend,
                exported.contract,
                files.__getitem__,
                threads=1,
                precision=precision,  # type: ignore[arg-type]
            )
            stack.enter_context(session)
            found[f"{backend} {precision}"] = lambda session=session: session.infer(image)  # type: ignore[misc]
    return found


def measure(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of CPU time of each form in each round, after one untimed call."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for turn in range(rounds):
        for name in list(calls)[:: 1 if turn % 2 == 0 else -1]:
            start = time.process_time()
            calls[name]()
            times[name].append(1000 * (time.process_time() - start))
    return times


def main(size: tuple[int, int], rounds: int, names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names:
        with ExitStack() as stack:
            times = measure(forms(name, size, stack), rounds)
        base = times["eager channels_last"]
        print(f"\n{name} at {size[0]}x{size[1]}, one thread, CPU ms of an image, {rounds} rounds")
        print(f"{'form':26}{'median':>10}{'lowest':>10}{'times faster':>14}")
        for form, own in times.items():
            ratio = statistics.median(b / o for b, o in zip(base, own, strict=True))
            print(f"{form:26}{statistics.median(own):10.1f}{min(own):10.1f}{ratio:14.2f}")


if __name__ == "__main__":
    height, _, width = (sys.argv[1] if len(sys.argv) > 1 else "512x1024").partition("x")
    main(
        (int(height), int(width)),
        int(sys.argv[2]) if len(sys.argv) > 2 else 5,
        sys.argv[3:] or ["dlv3_r18", "dlv3_mbv2"],
    )
