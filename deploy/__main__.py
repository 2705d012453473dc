"""The shipping half for a person with only a file: `python -m deploy COMMAND`."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from afdcd.errors import UserError
from afdcd.files import disk_errors, sha256
from deploy import hardware, protocol_command, tables
from deploy.benchmark import measure as time_in_turn
from deploy.benchmark_worker import Images, Subject
from deploy.bundle import MANIFEST, read_manifest, verify
from deploy.check import ONNX_BACKENDS, check_file
from deploy.cli import kit, measure
from deploy.config import BenchmarkConfig, Config
from deploy.evaluate import evaluate
from deploy.pairs import pair, read
from deploy.progress import bar, track
from deploy.sessions import open_session
from deploy.sessions.capability import GPU_BACKENDS, PRECISIONS, capability


def _show(options: argparse.Namespace, record: Config | dict[str, object], table: Table) -> None:
    """Print the record as JSON or as a table."""
    if options.json:
        value = record.model_dump(mode="json") if isinstance(record, Config) else record
        print(json.dumps(value, indent=1, sort_keys=True))
    else:
        Console().print(table)


def _evaluate(options: argparse.Namespace) -> None:
    manifest = verify(options.bundle)
    contract = manifest.contract
    protocol = protocol_command.chosen(options)
    if options.masks is None and options.submission is None:
        raise UserError("--masks is missing; only --submission works without")
    if options.masks is None and protocol is not None:
        with open_session(options.bundle, threads=options.threads or manifest.threads) as session:
            count = protocol_command.submit(session, options, protocol)
        print(f"{count} files of labelIds in {options.submission}")
        return
    pairs = pair(options.images, options.masks)
    if protocol is not None:
        with open_session(options.bundle, threads=options.threads or manifest.threads) as session:
            samples = iter(track(read(pairs), manifest.model, len(pairs)))
            engine = sha256(options.bundle / MANIFEST)
            scored = protocol_command.score(session, samples, options, protocol, engine)
        protocol_command.write_csv(options.csv, scored)
        _show(options, scored, tables.protocol(scored))
        return
    with open_session(options.bundle, threads=options.threads or manifest.threads) as session:
        found = evaluate(
            session,
            track(read(pairs), manifest.model, len(pairs)),
            classes=contract.classes,
            ignore_index=contract.ignore_index,
            size=contract.geometry.size,
            mode=contract.geometry.fit,
            gallery=0,
            engine=sha256(options.bundle / MANIFEST),
        )
    protocol_command.write_csv(options.csv, found.score)
    _show(options, found.score, tables.accuracy(found.score))


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


def _benchmark(options: argparse.Namespace) -> None:
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
        report = time_in_turn(
            subjects, batches, settings, inputs="random inputs", baseline=subjects[0].name, tick=tick
        )
    _show(options, report, tables.latency(report))


def _verify(options: argparse.Namespace) -> None:
    manifest = verify(options.bundle)
    _show(options, manifest, tables.contents(manifest))


def _check(options: argparse.Namespace) -> None:
    found = check_file(options.graph, options.backend)
    listed = [finding.model_dump() for finding in found]
    _show(options, {"backend": options.backend, "findings": listed}, tables.findings(found))
    errors = sum(finding.level == "error" for finding in found)
    if errors:
        raise UserError(
            f"{options.graph} is not sound for {options.backend}: {errors} error(s), listed above"
        )


def _doctor(options: argparse.Namespace) -> None:
    precisions = {**PRECISIONS, **dict.fromkeys(GPU_BACKENDS, ("fp16",))}
    engines = {
        f"{backend} {precision}": capability(backend, precision)
        for backend, possible in precisions.items()
        for precision in possible
    }
    _show(options, {"engines": engines, "hardware": hardware.describe()}, tables.engines(engines))


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _spread(text: str) -> float:
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, does: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=does, description=does)
        added.add_argument("--json", action="store_true", help="print JSON instead of a table")
        return added

    threads = {"type": _count, "default": None, "help": "CPU threads; those of the bundle, or 1 for a file"}

    scores = command("evaluate", "accuracy of a bundle on images with masks of class numbers")
    scores.add_argument("bundle", type=Path)
    scores.add_argument("--images", type=Path, required=True)
    scores.add_argument("--masks", type=Path, help="<image name>.png each")
    scores.add_argument("--threads", **threads)  # type: ignore[arg-type]
    protocol_command.add_options(scores)
    scores.set_defaults(run=_evaluate)

    times = command(
        "benchmark", "latency of bundles and fixed-shape ONNX files in turn; the first is the baseline"
    )
    times.add_argument("paths", type=Path, nargs="+", metavar="BUNDLE_OR_ONNX")
    times.add_argument("--threads", **threads)  # type: ignore[arg-type]
    counts = {
        "batch-size": (1, "images a call: what a bundle is given, what an ONNX file's input holds"),
        "warmup": (10, "untimed calls first"),
        "iterations": (140, "timed calls a round; p99 needs 662 in all"),
        "rounds": (5, "turns of each model"),
    }
    for name, (default, does) in counts.items():
        times.add_argument(f"--{name}", type=_count, default=default, help=f"{does}; default {default}")
    times.add_argument(
        "--max-cv", type=_spread, default=0.1, help="spread of rounds called steady, default 0.1"
    )
    times.set_defaults(run=_benchmark)

    files = command("verify", "check every file of a bundle against its manifest")
    files.add_argument("bundle", type=Path)
    files.set_defaults(run=_verify)

    looks = command("check", "a static look at an ONNX file for an engine: what it would refuse or misread")
    looks.add_argument("graph", type=Path, metavar="ONNX")
    looks.add_argument("--for", dest="backend", required=True, choices=ONNX_BACKENDS)
    looks.set_defaults(run=_check)

    for verb in (kit, measure):
        verb.add(command)

    command("doctor", "which engines this machine can run, and what the others lack").set_defaults(
        run=_doctor
    )
    return parser


def main(given: list[str] | None = None) -> None:
    """Run a command; an error a person can mend is one sentence and exit 1, Ctrl-C is exit 130."""
    options = _parser().parse_args(given)
    try:
        with disk_errors(Path("the output")):
            options.run(options)
            _flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _flush() -> None:
    """Write out what was printed, here, where a full disk can still become a sentence."""
    try:
        sys.stdout.flush()
    except OSError:
        # The interpreter would try again at exit, and complain in its own words.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


if __name__ == "__main__":
    main()
