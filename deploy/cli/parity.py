"""`python -m deploy parity`: an exported network against its PyTorch program, or two ONNX files."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from afdcd.errors import UserError
from deploy import tables
from deploy.bundle import LOGITS, PROGRAM, checked_bytes, read_contract
from deploy.cli import Verbs
from deploy.cli.output import add_out, show
from deploy.pairs import images_of, open_image
from deploy.parity import Case, inputs, suite
from deploy.sessions import open_backend

IMAGES = 8


def add(command: Verbs) -> None:
    """The verb and its arguments."""
    verb = command("parity", "how near an exported network's graphs are to PyTorch, at five shapes")
    verb.add_argument("exported", type=Path, metavar="FOLDER", help="as the stage export writes it")
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
    contract = read_contract(options.exported)
    if not options.images.is_dir():
        raise UserError(f"{options.images} is no folder; give one with images")
    files = images_of(options.images)[:IMAGES]
    images = [np.asarray(open_image(path).convert("RGB")) for path in files]

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
