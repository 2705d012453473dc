"""`python -m deploy benchmark`: latency and load of bundles and anyone's ONNX files, measured in turn."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from afdcd.errors import UserError
from deploy import peak, tables, trtexec
from deploy.benchmark import Report, Worker, measure, worker_of
from deploy.benchmark_worker import Images, Subject
from deploy.bundle import CLASS_MAP, read_manifest
from deploy.cli import Verbs
from deploy.cli.output import above_zero, add_out, add_threads, count, show
from deploy.cli.subjects import add_backends, add_shape
from deploy.cli.subjects import subjects as subjects_of
from deploy.config import BenchmarkConfig
from deploy.graph import load
from deploy.macs import Macs
from deploy.macs import count as count_macs
from deploy.plain_graph import holds_half, holds_quantised
from deploy.progress import bar
from deploy.scenarios import QUERIES, Load, Scenario, search
from deploy.weighing import ON_CPU
from deploy.work import of as work_of

COUNTS = {
    "batch-size": (1, "images a call of a bundle; an ONNX file's is in its shape"),
    "warmup": (10, "untimed calls first"),
    "iterations": (140, "timed calls a round; p99 needs 662 in all"),
    "rounds": (5, "turns of each model"),
}


def add(command: Verbs) -> None:
    """The verb and its arguments."""
    verb = command("benchmark", "latency of bundles and ONNX files in turn; the first is the baseline")
    verb.add_argument("paths", type=Path, nargs="+", metavar="BUNDLE_OR_ONNX")
    add_backends(verb)
    add_shape(verb)
    add_threads(verb)
    add_out(verb)
    for name, (default, does) in COUNTS.items():
        verb.add_argument(f"--{name}", type=count, default=default, help=f"{does}; default {default}")
    verb.add_argument(
        "--max-cv", type=above_zero, default=0.1, help="spread of rounds called steady, default 0.1"
    )
    verb.add_argument("--peak", action="store_true", help="also measure what the machine reaches at best")
    loads = verb.add_argument_group("load", "after MLPerf; beside the latency of a single stream")
    loads.add_argument(
        "--scenario", nargs="+", choices=["single-stream", "offline", "server"], default=["single-stream"]
    )
    loads.add_argument("--streams", type=count, default=2, help="calls at the same time, default 2")
    loads.add_argument("--seconds", type=above_zero, default=10.0, help="of offline, default 10")
    loads.add_argument("--rate", type=above_zero, help="arrivals a second of server; searched if not given")
    loads.add_argument("--target-ms", type=above_zero, help="what p99 of server may be when searching")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure all models in one run.

    Raises:
        UserError: a model is given twice or cannot be opened or run, or bundles take different sizes.
    """
    subjects = subjects_of(options.paths, options.backend, options.threads, options.shape)
    if "server" in options.scenario and options.rate is None and options.target_ms is None:
        raise UserError("--scenario server needs --rate, or --target-ms to search the rate for")
    settings = BenchmarkConfig(
        batch_size=options.batch_size,
        warmup=options.warmup,
        iterations=options.iterations,
        rounds=options.rounds,
        max_cv=options.max_cv,
    )
    batches = _random_batches(subjects, settings.batch_size)
    with bar("latency", settings.rounds * len(subjects)) as tick:
        report = measure(
            subjects, batches, settings, inputs="random inputs", baseline=subjects[0].name, tick=tick
        )
    loads = _loads(options, subjects, batches)
    macs = {subject.name: _macs(subject, batches) for subject in subjects}
    report = _weighed(report, subjects, macs, with_peak=options.peak)
    record = report.model_dump(mode="json")
    record["trtexec"] = {
        one.name: trtexec.fields(report.models[one.name], backend=_backend(one)) for one in subjects
    }
    record["complexity"] = {
        name: found.model_dump(exclude={"nodes"}) if isinstance(found, Macs) else {"reason": found}
        for name, found in macs.items()
    }
    record["loads"] = {name: [one.model_dump() for one in found] for name, found in loads.items()}
    show(options, record, tables.benchmark(report, macs, loads))


def _weighed(
    report: Report, subjects: Sequence[Subject], macs: Mapping[str, Macs | str], *, with_peak: bool
) -> Report:
    """The report with each model's work, held against the peak in its precision where that is asked for."""
    best = peak.measure(subjects[0].threads) if with_peak else None
    work = {}
    for subject in subjects:
        found, precision = macs[subject.name], _precision(subject)
        on_cpu = _backend(subject).split(":")[0] in ON_CPU
        # Of other threads than the peak's there is no share.
        alike = best is not None and on_cpu and subject.threads == best.threads
        reached = best.gflops.get(precision) if best is not None and alike else None
        if isinstance(found, Macs):
            work[subject.name] = work_of(found, report.models[subject.name].own_ms, precision, reached)
    return report.model_copy(update={"peak": best, "work": work})


def _precision(subject: Subject) -> str:
    """What a model computes in: as its bundle says, as its engine was told, or as its graph is typed."""
    if subject.path.is_dir():
        return read_manifest(subject.path).precision
    if subject.engine.endswith(":bf16"):
        return "bf16"
    model = load(subject.path)
    if holds_quantised(model):
        return "int8"
    return "fp16" if holds_half(model) else "fp32"


def _backend(subject: Subject) -> str:
    return read_manifest(subject.path).backend if subject.path.is_dir() else subject.engine


def _random_batches(subjects: Sequence[Subject], batch_size: int) -> list[Images]:
    """Random images at the bundles' common input size; none where all subjects are ONNX files."""
    bundles = [subject.path for subject in subjects if subject.path.is_dir()]
    sizes = {read_manifest(path).contract.geometry.size for path in bundles}
    if len(sizes) > 1:
        raise UserError(f"the bundles take different input sizes {sorted(sizes)}; measure them in two runs")
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (batch_size, *size, 3), dtype=np.uint8) for size in sizes]


def _loads(
    options: argparse.Namespace, subjects: Sequence[Subject], batches: Sequence[Images]
) -> dict[str, list[Load]]:
    kinds = [kind for kind in ("offline", "server") if kind in options.scenario]
    found: dict[str, list[Load]] = {}
    for subject in subjects if kinds else ():
        with worker_of(subject, batches) as worker:
            found[subject.name] = [_load(options, worker, kind) for kind in kinds]
            worker.finish()
    return found


def _load(options: argparse.Namespace, worker: Worker, kind: str) -> Load:
    def offline(seconds: float) -> Load:
        return worker.load(Scenario("offline", options.streams, seconds, 0.0, 0))

    def serve(rate: float) -> Load:
        return worker.load(Scenario("server", options.streams, 0.0, rate, QUERIES))

    if kind == "offline":
        return offline(options.seconds)
    if options.rate is not None:
        return serve(options.rate)
    return search(serve, offline(min(options.seconds, 3.0)).throughput, options.target_ms)


def _macs(subject: Subject, batches: Sequence[Images]) -> Macs | str:
    """The count of a graph, or why there is none."""
    path = subject.path / CLASS_MAP if subject.path.is_dir() else subject.path
    if not path.is_file():
        return "the bundle holds no ONNX graph"
    try:
        model = load(path)
        if subject.path.is_dir():
            return count_macs(model, {model.graph.input[0].name: batches[0].shape})
        weights = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in weights]
        shapes = {
            value.name: wish.shape
            for value in inputs
            for wish in subject.shapes
            if wish.name == value.name
            or (not wish.name and len(wish.shape) == len(value.type.tensor_type.shape.dim))
        }
        return count_macs(model, shapes)
    except UserError as error:
        return str(error)
