"""`python -m deploy compare`: engines, ONNX files and bundles against the first of them, in one table."""

from __future__ import annotations

import argparse
from pathlib import Path

from afdcd.errors import UserError
from deploy import tables
from deploy.cli import Verbs
from deploy.cli.output import add_out, add_threads, show
from deploy.cli.parity import IMAGES, read_images
from deploy.cli.plain import add_pixels, unit_or_given
from deploy.cli.subjects import add_backends, add_shape, subjects
from deploy.comparison import compare
from deploy.progress import bar


def add(command: Verbs) -> None:
    """The verb and its arguments."""
    verb = command("compare", "agreement, error, SQNR and size of bundles and files against the first")
    verb.add_argument("paths", type=Path, nargs="+", metavar="BUNDLE_OR_ONNX")
    verb.add_argument("--images", type=Path, help=f"a folder; the first {IMAGES} beside noise and extremes")
    add_backends(verb)
    add_shape(verb)
    add_pixels(verb.add_argument_group("of ONNX files that take floats", "default: values of 0..1"))
    add_threads(verb)
    add_out(verb)
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Compare all with the first.

    Raises:
        UserError: there is one model only, or one cannot be opened or gives other outputs than the first.
    """
    chosen = subjects(options.paths, options.backend, options.threads, options.shape)
    if len(chosen) < 2:
        raise UserError("compare needs two models: two paths, or one file with two engines (--backend)")
    images = [] if options.images is None else read_images(options.images)
    with bar("compared", len(chosen)) as tick:
        found = compare(chosen, images, tick, normalisation=unit_or_given(options))
    record = {"reference": chosen[0].name, "models": {k: v.model_dump(mode="json") for k, v in found.items()}}
    show(options, record, tables.comparison(found))
