"""`python -m deploy parity`: an exported network against its PyTorch program, or two ONNX files."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from afdcd.errors import UserError
from deploy import tables
from deploy.bundle import LOGITS, PROGRAM, Pixels, checked_bytes, read_contract
from deploy.cli import Verbs
from deploy.cli.output import add_out, show
from deploy.cli.plain import add_pixels, unit_or_given
from deploy.cli.subjects import add_shape, subjects
from deploy.comparison import compare
from deploy.pairs import images_of, open_image
from deploy.parity import Case, inputs, suite
from deploy.sessions import open_backend

IMAGES = 8


def add(command: Verbs) -> None:
    """The verb and its arguments."""
    verb = command("parity", "how near graphs are to PyTorch, or one file to another")
    verb.add_argument("exported", type=Path, metavar="FOLDER", help="as `export` writes it; or a file")
    verb.add_argument(
        "other", type=Path, nargs="?", metavar="OTHER", help="file or bundle to hold against it"
    )
    add_shape(verb)
    add_pixels(verb.add_argument_group("of ONNX files that take floats", "default: values of 0..1"))
    verb.add_argument("--images", type=Path, required=True, help=f"a folder; the first {IMAGES} are taken")
    verb.add_argument("--min-agreement", type=float, default=0.9999, help="default 0.9999")
    verb.add_argument("--max-error", type=float, default=1e-4, help="of a logit, relative; default 1e-4")
    add_out(verb)
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Compare with real images, noise and extremes; beyond a limit, name the first tensor that differs.

    Raises:
        UserError: a file is altered, or the graph differs by more than the limits.
    """
    images = read_images(options.images)
    if options.other is not None:
        _two(options, images)
        return
    if not options.exported.is_dir():
        raise UserError(
            f"{options.exported} is no exported folder; give a second file or a bundle to hold it against"
        )
    contract = read_contract(options.exported)
    if PROGRAM not in contract.graphs:
        raise UserError(
            f"{options.exported} was exported from an ONNX file and holds no {PROGRAM}; to hold two files "
            "against each other: python -m deploy parity FILE OTHER --images FOLDER"
        )

    def content(name: str) -> bytes:
        return checked_bytes(options.exported / name, contract.graphs[name])

    with (
        open_backend("pytorch", contract, content, threads=1) as reference,
        open_backend("onnxruntime", contract, content, threads=1) as engine,
    ):
        found = suite(reference, engine, images)
    show(options, found, tables.parity(found))
    if found.agreement < options.min_agreement or found.max_relative_error > options.max_error:
        where = _where(found.worst(), content(PROGRAM), content(LOGITS), options, images)
        raise UserError(f"{options.exported}: the graph differs from PyTorch; {where}")


def read_images(folder: Path) -> list[Pixels]:
    """The first few images of a folder, RGB (H, W, 3).

    Raises:
        UserError: it is no folder, holds no image, or one cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give one with images")
    return [np.asarray(open_image(path).convert("RGB")) for path in images_of(folder)[:IMAGES]]


def _two(options: argparse.Namespace, images: list[Pixels]) -> None:
    """One file or bundle against another.

    Raises:
        UserError: they differ by more than the limits.
    """
    found = compare(
        subjects([options.exported, options.other], ["onnxruntime"], 1, options.shape),
        images,
        normalisation=unit_or_given(options),
    )
    name, one = list(found.items())[1]
    show(options, {**one.model_dump(mode="json"), "model": name}, tables.comparison(found))
    low = one.agreement is not None and one.agreement < options.min_agreement
    high = one.max_relative_error is not None and one.max_relative_error > options.max_error
    if low or high:
        agreement = "none" if one.agreement is None else f"{one.agreement:.6f}"
        error = "none" if one.max_relative_error is None else f"{one.max_relative_error:.2e}"
        raise UserError(
            f"{options.other} differs from {options.exported}: agreement {agreement} (at least "
            f"{options.min_agreement}), largest relative error {error} (at most {options.max_error:.1e}); "
            "give the limits that you accept with --min-agreement and --max-error"
        )


def _where(
    case: Case | None, program: bytes, graph: bytes, options: argparse.Namespace, images: list[np.ndarray]
) -> str:
    import onnx

    from deploy.archive import load_program
    from deploy.bisect import against_program

    assert case is not None  # a suite has cases
    contract = read_contract(options.exported)
    divergence = against_program(
        load_program(program),
        onnx.load_from_string(graph),
        contract,
        inputs(case.kind, (1, *case.shape[1:]), images, contract),
        limit=options.max_error,
    )
    return "no single tensor does" if divergence is None else divergence.sentence()
