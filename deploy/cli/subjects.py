"""Bundles and anyone's ONNX files as a person names them on a command line."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from afdcd.errors import UserError
from deploy.anyones import ENGINES, Wish
from deploy.benchmark_worker import Subject
from deploy.bundle import read_manifest


def add_backends(verb: argparse.ArgumentParser) -> None:
    """The option for the engines that run ONNX files."""
    verb.add_argument(
        "--backend", nargs="+", choices=ENGINES, default=["onnxruntime"], help="engines for ONNX files"
    )


def add_shape(verb: argparse.ArgumentParser) -> None:
    """The option for the lengths that a file leaves open."""
    verb.add_argument(
        "--shape", type=_wish, nargs="+", default=[], metavar="[NAME:]1x3x512x1024", help="of open inputs"
    )


def _wish(text: str) -> Wish:
    name, _, lengths = text.rpartition(":")
    try:
        shape = tuple(int(length) for length in lengths.split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"must be like 1x3x512x1024 or images:1x3x512x1024, got {text!r}")
    return Wish(name, shape)


def subjects(
    paths: Sequence[Path], backends: Sequence[str], threads: int | None, shapes: Sequence[Wish]
) -> list[Subject]:
    """A subject a bundle, and one for each engine of a file; bundles of one name are told apart by folder.

    Args:
        paths: bundle folders and ONNX files.
        backends: engines for files.
        threads: CPU threads; None for those of the bundle, or 1 for a file.
        shapes: of inputs that a file leaves open.

    Raises:
        UserError: a path does not exist or is given twice, or a folder is no bundle.
    """
    found = []
    for path in paths:
        if path.is_dir():
            manifest = read_manifest(path)
            name = f"{manifest.model} on {manifest.target}"
            found.append(Subject(name, path, threads or manifest.threads))
            continue
        if not path.exists():
            raise UserError(f"{path} does not exist; give ONNX files or bundle folders")
        for engine in backends:
            name = f"{path} on {engine}" if len(backends) > 1 else str(path)
            found.append(Subject(name, path, threads or 1, engine, tuple(shapes)))
    times = Counter(subject.name for subject in found)
    found = [one._replace(name=f"{one.name} ({one.path})") if times[one.name] > 1 else one for one in found]
    if len({subject.name for subject in found}) < len(found):
        raise UserError("a model is given twice; give each once")
    return found
