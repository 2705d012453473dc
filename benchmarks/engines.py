"""Engines of one CPU on networks of the pairs: CPU time of an image, as ratios, and how far they reach.

python benchmarks/engines.py                         # three networks, 512x1024: half an hour
python benchmarks/engines.py 256x512 3 dlv3_r18      # another size, rounds, networks (teacher: of r101_r18)

One image a call, one thread. All forms of all networks take turns, so that all meet the same machine, and the
CPU time of the process is told, which other work on the machine hardly changes; a ratio is the median over
rounds of ratios in the same round. Weights are random: for accuracy see `python -m deploy evaluate`. Eager
PyTorch is measured in both layouts, since channels_last is not always the faster one; ratios in the tables
count from channels_last, those of `reach` from what each line names. INT8 is calibrated on noise, which
changes no speed. The teacher is measured on fp32 engines alone. `+winograd` is an engine on the graph that
`deploy.winograd` makes; the name alone is the engine on the graph as it was exported.
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
import onnx
import torch
import yaml

from afdcd.config import ModelConfig
from afdcd.models.segmenter import build_segmenter
from deploy import graph, qdq, winograd
from deploy.build import WINOGRAD
from deploy.bundle import CLASS_MAP, ClassMapOutput, Contract, Geometry, ImageInput, Range
from deploy.export import Deployable, export
from deploy.sessions import open_backend
from deploy.sessions.capability import PRECISIONS, capability

CLASSES = 19
PAIRS = Path(__file__).parents[1] / "conf" / "pair"
Call = Callable[[], Any]


TEACHER = "teacher"
REACH = (
    # what, network and kind of form, network and kind of baseline, at least, aim
    (
        "best fp32 engine against eager channels_last",
        "dlv3_r18 engine fp32",
        "dlv3_r18 eager channels_last",
        1.15,
        1.3,
    ),
    ("INT8 against fp32 of ONNX Runtime", "dlv3_r18 onnxruntime int8", "dlv3_r18 onnxruntime fp32", 2.8, 3.2),
    ("INT8 against the best fp32 engine", "dlv3_r18 engine int8", "dlv3_r18 engine fp32", None, None),
    ("INT8 against fp32 of OpenVINO", "dlv3_r18 openvino int8", "dlv3_r18 openvino fp32", None, None),
    ("bf16 against fp32 of OpenVINO", "dlv3_r18 openvino bf16", "dlv3_r18 openvino fp32", 1.9, None),
    ("mobile student: best engine against eager", "dlv3_mbv2 engine", "dlv3_mbv2 eager", 3.0, 5.0),
    (
        "INT8 ResNet-18 against the teacher's best fp32 engine",
        "dlv3_r18 engine int8",
        "teacher engine fp32",
        10,
        12,
    ),
    (
        "best MobileNetV2 against the teacher's best fp32 engine",
        "dlv3_mbv2 engine",
        "teacher engine fp32",
        14,
        18,
    ),
)


def _config(network: str) -> ModelConfig:
    for file in sorted(PAIRS.glob("*.yaml")):
        pair = yaml.safe_load(file.read_text(encoding="utf-8"))
        known = dict(pair["students"])
        if file.stem == "r101_r18":
            known[TEACHER] = pair["teacher"]["model"]
        if network in known:
            return ModelConfig.model_validate({**known[network], "pretrained": "none"})
    raise SystemExit(f"no pair has a network {network!r}")


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


def _int8(files: dict[str, bytes], image: np.ndarray, backend: str) -> dict[str, bytes]:
    if backend == "openvino":
        from deploy.nncf_int8 import quantise

        return quantise(files[CLASS_MAP], image, logits="logits", method="minmax", percentile=99.99).files
    model = qdq.flatten_normalisation(onnx.load_from_string(files[CLASS_MAP]))
    ranges = qdq.ranges(model, image, method="minmax", percentile=99.99, what="calibration")
    return {CLASS_MAP: graph.to_bytes(graph.canonical(qdq.insert(model, ranges)))}


def forms(name: str, size: tuple[int, int], stack: ExitStack) -> dict[str, Call]:
    """Eager PyTorch in both layouts, and every engine that this machine runs, by network and form."""
    config = _config(name)
    torch.manual_seed(0)
    network = build_segmenter(config, CLASSES).deployed()
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    exported = export(network, _contract(name, config, network, size))
    found: dict[str, Call] = {}
    if name != TEACHER:
        found[f"{name} eager channels_last"] = _eager(network, image, channels_last=True)
        found[f"{name} eager"] = _eager(network, image, channels_last=False)
    for backend, possible in PRECISIONS.items():
        for precision in possible:
            if backend == "pytorch" or capability(backend, precision):
                continue
            if name == TEACHER and (backend.startswith("pytorch") or precision != "fp32"):
                continue
            for form, files in _files(exported.files, image, backend, precision).items():
                session = open_backend(
                    backend,
                    exported.contract,
                    files.__getitem__,
                    threads=1,
                    precision=precision,  # type: ignore[arg-type]
                )
                stack.enter_context(session)
                found[f"{name} {backend}{form} {precision}"] = lambda session=session: session.infer(image)  # type: ignore[misc]
    return found


def _files(
    exported: dict[str, bytes], image: np.ndarray, backend: str, precision: str
) -> dict[str, dict[str, bytes]]:
    """What the engine runs, by the form of the graph."""
    if precision == "int8":
        return {"": _int8(exported, image, backend)}
    found = {"": exported}
    if (backend, precision) in WINOGRAD:
        model, names = winograd.rewrite(onnx.load_from_string(exported[CLASS_MAP]))
        if names:
            found["+winograd"] = {CLASS_MAP: graph.to_bytes(model)}
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


def _best(kind: str, times: dict[str, list[float]]) -> str | None:
    """What a line of `REACH` means: a form, or the fastest of a network's engines or eager layouts."""
    if kind in times and not kind.endswith(" eager"):
        return kind
    network, form, *precision = kind.split()
    fitting = [
        name
        for name in times
        if name.split()[0] == network
        and (name.split()[1] == "eager") == (form == "eager")
        and name.split()[-1] in (precision or [name.split()[-1]])
        and form in ("engine", "eager")
    ]
    return min(fitting, key=lambda name: statistics.median(times[name]), default=None)


def _ratio(times: dict[str, list[float]], own: str, base: str) -> float:
    return statistics.median(b / o for b, o in zip(times[base], times[own], strict=True))


def reach(times: dict[str, list[float]]) -> None:
    """How far the engines came, a line each; what this machine cannot run says so."""
    print(f"\n{'reach':58}{'ratio':>8}{'at least':>10}{'aim':>6}  form, baseline")
    for what, kind, base_kind, least, aim in REACH:
        own, base = _best(kind, times), _best(base_kind, times)
        limits = f"{least or '-':>10}{aim or '-':>6}"
        if own is None or base is None:
            print(f"{what:58}{'-':>8}{limits}  not run here: {kind if own is None else base_kind}")
        else:
            print(f"{what:58}{_ratio(times, own, base):8.2f}{limits}  {own}, {base}")


def main(size: tuple[int, int], rounds: int, names: list[str]) -> None:
    torch.set_num_threads(1)
    with ExitStack() as stack:
        calls: dict[str, Call] = {}
        for name in names:
            calls |= forms(name, size, stack)
        times = measure(calls, rounds)
    for name in names:
        own = {form: values for form, values in times.items() if form.split()[0] == name}
        base = f"{name} eager channels_last" if name != TEACHER else next(iter(own))
        print(f"\n{name} at {size[0]}x{size[1]}, one thread, CPU ms of an image, {rounds} rounds")
        print(f"{'form':36}{'median':>10}{'lowest':>10}{'times faster':>14}")
        for form, values in own.items():
            ratio = _ratio(times, form, base)
            print(f"{form:36}{statistics.median(values):10.1f}{min(values):10.1f}{ratio:14.2f}")
    reach(times)


if __name__ == "__main__":
    height, _, width = (sys.argv[1] if len(sys.argv) > 1 else "512x1024").partition("x")
    main(
        (int(height), int(width)),
        int(sys.argv[2]) if len(sys.argv) > 2 else 5,
        sys.argv[3:] or ["dlv3_r18", "dlv3_mbv2", TEACHER],
    )
