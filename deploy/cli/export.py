"""`python -m deploy export`: a network in a .pt2 or .onnx under the contract, held against what it was."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from afdcd.errors import UserError
from afdcd.files import atomic_folder
from deploy import tables
from deploy.bundle import CONTRACT, PARITY, QUANTISATION, Pixels, write_model
from deploy.cli import Verbs
from deploy.cli.output import add_out, show
from deploy.cli.parity import IMAGES, read_images
from deploy.cli.plain import add_plain, adopted, against_file, class_names, normalisation
from deploy.parity import Parity, require, suite
from deploy.progress import bar
from deploy.quantize import unchanged
from deploy.sessions import open_backend

if TYPE_CHECKING:
    from deploy.adopt import Adopted
    from deploy.export import Exported


def add(command: Verbs) -> None:
    """The verb and its arguments."""
    verb = command(
        "export", "ONNX of a network in a .pt2 or .onnx: bytes in, class map out, checked against it"
    )
    verb.add_argument("program", type=Path, metavar="PT2_OR_ONNX", help="(B, 3, H, W) -> logits (B, K, h, w)")
    verb.add_argument("--images", type=Path, required=True, help=f"a folder; the first {IMAGES} are taken")
    add_plain(verb)
    verb.add_argument("--opset", type=int, choices=range(18, 25), help="of a .pt2; default 20")
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
    images = read_images(options.images)
    of_program = options.program.suffix == ".pt2"
    exported: Exported | Adopted
    exported, found = _of_program(options, images) if of_program else _of_file(options, images)
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
    show(options, record, tables.parity(found, "PyTorch" if of_program else str(options.program)))


def _of_file(options: argparse.Namespace, images: list[Pixels]) -> tuple[Adopted, Parity]:
    """An ONNX file, its nodes as they are."""
    if options.opset is not None:
        raise UserError(f"--opset is for a .pt2; {options.program} keeps its own")
    taken = adopted(options.program, options)
    found = against_file(options.program, taken, images)
    if found.agreement < options.min_agreement or found.max_relative_error > options.max_error:
        raise UserError(
            f"{options.program}: the exported graph differs from the file: agreement "
            f"{found.agreement:.6f} (at least {options.min_agreement}), largest relative error "
            f"{found.max_relative_error:.2e} (at most {options.max_error:.1e}); accept that by "
            "--min-agreement and --max-error"
        )
    return taken, found


def _of_program(options: argparse.Namespace, images: list[Pixels]) -> tuple[Exported, Parity]:
    """A program of PyTorch, translated."""
    for name in ("in_graph", "output"):
        if getattr(options, name) is not None:
            raise UserError(
                f"--{name.replace('_', '-')} is for an ONNX file; {options.program} is a .pt2, which gives "
                "its logits first and takes values of 0..255 where neither --mean nor --std is given"
            )
    wanted_pixels = normalisation(options)
    try:
        from deploy.export import export
        from deploy.program import Wanted, read_network
    except ImportError as error:
        raise UserError(f"export needs PyTorch ({error}); pip install torch onnxscript") from error
    wanted = Wanted(
        name=options.name or options.program.stem,
        classes=class_names(options),
        normalisation=wanted_pixels,
        size=None if options.size is None else (options.size[0], options.size[1]),
        fit=options.fit or "stretch",
        opset=options.opset or 20,
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
    return exported, found
