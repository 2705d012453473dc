"""`python -m deploy benchmark`: latency of bundles and ONNX files, measured in turn."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from afdcd.errors import UserError
from deploy import tables
from deploy.benchmark import measure
from deploy.benchmark_worker import Images, Subject
from deploy.bundle import read_manifest
from deploy.cli import Verbs
from deploy.cli.output import above_zero, add_out, add_threads, count, show
from deploy.config import BenchmarkConfig
from deploy.progress import bar

COUNTS = {
    "batch-size": (1, "images a call: what a bundle is given, what an ONNX file's input holds"),
    "warmup": (10, "untimed calls first"),
    "iterations": (140, "timed calls a round; p99 needs 662 in all"),
    "rounds": (5, "turns of each model"),
}


def add(command: Verbs) -> None:
    """The verb and its arguments."""
    verb = command(
        "benchmark", "latency of bundles and fixed-shape ONNX files in turn; the first is the baseline"
    )
    verb.add_argument("paths", type=Path, nargs="+", metavar="BUNDLE_OR_ONNX")
    add_threads(verb)
    add_out(verb)
    for name, (default, does) in COUNTS.items():
        verb.add_argument(f"--{name}", type=count, default=default, help=f"{does}; default {default}")
    verb.add_argument(
        "--max-cv", type=above_zero, default=0.1, help="spread of rounds called steady, default 0.1"
    )
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure all models in one run.

    Raises:
        UserError: a model is given twice or cannot be opened, or bundles take different sizes.
    """
    subjects = [_subject(path, options.threads) for path in options.paths]
    if len({subject.name for subject in subjects}) < len(subjects):
        raise UserError("a model is given twice; give each once")
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
    show(options, report, tables.latency(report))


def _subject(path: Path, threads: int | None) -> Subject:
    if path.is_dir():
        manifest = read_manifest(path)
        return Subject(f"{manifest.model} on {manifest.target}", path, threads or manifest.threads)
    if not path.exists():
        raise UserError(f"{path} does not exist; give ONNX files or bundle folders")
    return Subject(str(path), path, threads or 1)


def _random_batches(subjects: Sequence[Subject], batch_size: int) -> list[Images]:
    """Random images at the bundles' common input size; none where all subjects are ONNX files."""
    bundles = [subject.path for subject in subjects if subject.path.is_dir()]
    sizes = {read_manifest(path).contract.geometry.size for path in bundles}
    if len(sizes) > 1:
        raise UserError(f"the bundles take different input sizes {sorted(sizes)}; measure them in two runs")
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (batch_size, *size, 3), dtype=np.uint8) for size in sizes]
