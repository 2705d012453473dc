"""`python -m deploy export`: a network in a .pt2 becomes ONNX under the contract, held against PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path

from afdcd.config import Normalisation
from afdcd.errors import UserError
from afdcd.files import atomic_folder
from deploy import tables
from deploy.bundle import CONTRACT, PARITY, QUANTISATION, write_model
from deploy.cli import Verbs
from deploy.cli.output import add_out, count, show
from deploy.cli.parity import IMAGES, read_images
from deploy.parity import require, suite
from deploy.progress import bar
from deploy.sessions import open_backend


def add(command: Verbs) -> None:
    """The verb and its arguments."""
    verb = command("export", "ONNX of a network in a .pt2: bytes in, class map out, checked against PyTorch")
    verb.add_argument("program", type=Path, metavar="PT2", help="float32 (B, 3, H, W) -> logits (B, K, h, w)")
    verb.add_argument("--images", type=Path, required=True, help=f"a folder; the first {IMAGES} are taken")
    verb.add_argument("--name", help="of the model; default: the file's")
    verb.add_argument("--classes", nargs="+", default=[], metavar="NAME", help="in their numbers' order")
    verb.add_argument(
        "--size", type=count, nargs=2, metavar=("HEIGHT", "WIDTH"), help="if the program takes many"
    )
    verb.add_argument("--fit", choices=["stretch", "letterbox"], default="stretch", help="default stretch")
    for name, does in (("mean", "subtracted from values of 0..255"), ("std", "then divided by")):
        verb.add_argument(f"--{name}", type=float, nargs=3, metavar=("R", "G", "B"), help=does)
    verb.add_argument("--bgr", action="store_true", help="the network takes blue first")
    verb.add_argument("--opset", type=int, choices=range(18, 25), default=20, help="default 20")
    verb.add_argument("--min-agreement", type=float, default=0.9999, help="default 0.9999")
    verb.add_argument("--max-error", type=float, default=1e-4, help="of a logit, relative; default 1e-4")
    verb.add_argument("--exported", type=Path, required=True, help="the folder to write; replaced as a whole")
    add_out(verb)
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Export, and write nothing unless the graph computes what the program does.

    Raises:
        UserError: the file is not what it should be, cannot become ONNX, or the graph differs from PyTorch.
    """
    normalisation = _normalisation(options)
    images = read_images(options.images)
    try:
        from deploy.export import export
        from deploy.program import Wanted, read_network
        from deploy.quantize import unchanged
    except ImportError as error:
        raise UserError(f"export needs PyTorch ({error}); pip install torch onnxscript") from error
    wanted = Wanted(
        name=options.name or options.program.stem,
        classes=options.classes,
        normalisation=normalisation,
        size=None if options.size is None else (options.size[0], options.size[1]),
        fit=options.fit,
        opset=options.opset,
    )
    with bar(f"export of {wanted.name}", 2) as tick:
        exported = export(*read_network(options.program, wanted))
        tick()
        read = exported.files.__getitem__
        with (
            open_backend("pytorch", exported.contract, read, threads=1) as reference,
            open_backend("onnxruntime", exported.contract, read, threads=1) as engine,
        ):
            found = suite(reference, engine, images)
        tick()
    require(
        found,
        model=wanted.name,
        min_agreement=options.min_agreement,
        max_relative_error=options.max_error,
        names=("--min-agreement", "--max-error"),
    )
    with atomic_folder(options.exported) as folder:
        for name, content in exported.files.items():
            (folder / name).write_bytes(content)
        write_model(folder / CONTRACT, exported.contract)
        write_model(folder / PARITY, found)
        write_model(folder / QUANTISATION, unchanged(exported.files, "onnxruntime").record)
    record = {
        "contract": exported.contract.model_dump(mode="json"),
        "parity": found.model_dump(mode="json"),
    }
    show(options, record, tables.parity(found))


def _normalisation(options: argparse.Namespace) -> Normalisation | None:
    """What is written before the network; None where nothing was asked for."""
    if options.mean is None and options.std is None and not options.bgr:
        return None
    if options.std is not None and min(options.std) <= 0:
        raise UserError("--std must be above 0 in each channel")
    return Normalisation(
        order="bgr" if options.bgr else "rgb",
        mean=tuple(options.mean or (0.0, 0.0, 0.0)),
        std=tuple(options.std or (1.0, 1.0, 1.0)),
    )
