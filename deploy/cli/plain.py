"""The options that say of anyone's ONNX what the file does not, the same for every verb that takes one."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from afdcd.config import Normalisation
from afdcd.errors import UserError
from deploy.bundle import Pixels
from deploy.cli.output import count
from deploy.parity import Parity, suite
from deploy.pixels import UNIT
from deploy.sessions import open_backend

if TYPE_CHECKING:
    from deploy.adopt import Adopted

NAMES = ("mean", "std", "order", "in_graph", "size", "fit", "output", "classes", "name")
"""Of the options, as attributes."""

FAR = 1e-3
"""Beyond rounding: a relative error of scores; constants folded in another order give some 1e-5."""


def add_plain(verb: argparse.ArgumentParser) -> None:
    """Add them; each unset one is None."""
    group = verb.add_argument_group(
        "of an ONNX file",
        "which takes float (B, 3, H, W) and gives scores of classes; a folder says it itself",
    )
    add_pixels(group)
    group.add_argument("--in-graph", action="store_true", default=None, help="it takes values of 0..255")
    group.add_argument("--output", metavar="NAME", help="the scores, where it has several")
    add_names(group)


def add_pixels(group: argparse._ActionsContainer) -> None:
    """The options for what is done to pixels before a network."""
    for name, does in (("mean", "subtracted from values of 0..255"), ("std", "then divided by")):
        group.add_argument(f"--{name}", type=float, nargs=3, metavar=("R", "G", "B"), help=does)
    group.add_argument(
        "--order", choices=["rgb", "bgr"], help="of its channels, and of --mean and --std; rgb"
    )
    group.add_argument("--bgr", action="store_const", const="bgr", dest="order", help="short for --order bgr")


def add_names(group: argparse._ActionsContainer) -> None:
    """The options for name, classes and input size."""
    group.add_argument("--name", help="of the model; default: the file's")
    group.add_argument("--classes", nargs="+", metavar="NAME", help="in their numbers' order")
    group.add_argument(
        "--size", type=count, nargs=2, metavar=("HEIGHT", "WIDTH"), help="if it takes many sizes"
    )
    group.add_argument("--fit", choices=["stretch", "letterbox"], help="images into that size; stretch")


def refuse_plain(options: argparse.Namespace, folder: Path) -> None:
    """Refuse the options beside a folder, which holds all that they say.

    Raises:
        UserError: one of them is given.
    """
    given = [name for name in NAMES if getattr(options, name, None) is not None]
    if given:
        option = f"--{given[0].replace('_', '-')}"
        raise UserError(
            f"{option} is for an ONNX file; {folder} is a folder and says it itself, leave it out"
        )


def class_names(options: argparse.Namespace) -> list[str]:
    """The names of --classes; empty where they are not given.

    Raises:
        UserError: a name is given twice; scores are told by name.
    """
    names: list[str] = options.classes or []
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise UserError(f"--classes names {twice[0]!r} {names.count(twice[0])} times; each class has its own")
    return names


def adopted(path: Path, options: argparse.Namespace) -> Adopted:
    """The file under the contract that the options describe.

    Raises:
        UserError: nothing says what the file's pixels are, or as `deploy.adopt.adopt`.
    """
    from deploy.adopt import Wanted, adopt  # takes onnxruntime along, which bundles do without

    wanted = Wanted(
        name=options.name or path.stem,
        classes=class_names(options),
        normalisation=_of_file(options, path),
        size=None if options.size is None else (options.size[0], options.size[1]),
        fit=options.fit or "stretch",
        output=options.output,
    )
    return adopt(path, wanted)


def _of_file(options: argparse.Namespace, path: Path) -> Normalisation:
    given = normalisation(options)
    if options.in_graph:
        if options.mean is not None or options.std is not None:
            raise UserError("--in-graph says that the graph normalises by itself; leave --mean and --std out")
        return given or Normalisation(order="rgb", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    if options.mean is None and options.std is None:
        raise UserError(
            f"{path} does not say what its pixels are; give --mean 123.675 116.28 103.53 --std 58.395 57.12 "
            "57.375 (ImageNet's, as torchvision and timm take), --std 255 255 255 (values of 0..1), or "
            "--in-graph (values of 0..255)"
        )
    assert given is not None
    return given


def against_file(path: Path, taken: Adopted, images: Sequence[Pixels]) -> Parity:
    """The graph under the contract against the file itself, which is fed with floats.

    Raises:
        UserError: they differ by more than rounding.
    """
    from deploy.sessions.original import OriginalSession

    original = OriginalSession(path, taken)
    read = taken.files.__getitem__
    with original, open_backend("onnxruntime", taken.contract, read, threads=1) as engine:
        found = suite(original, engine, images)
    if found.max_relative_error > FAR:
        raise UserError(
            f"{path}: what was put around the graph changes its scores by {found.max_relative_error:.1e} of "
            "the largest; this is a fault here, please report it with the file"
        )
    return found


def normalisation(options: argparse.Namespace) -> Normalisation | None:
    """What is done to values of 0..255 before the network; None where nothing was asked for.

    Raises:
        UserError: --std is not above 0, or one of them counts on values of 0..1.
    """
    if options.mean is None and options.std is None and options.order is None:
        return None
    if options.std is not None and min(options.std) <= 0:
        raise UserError("--std must be above 0 in each channel")
    for name in ("mean", "std"):
        values = getattr(options, name)
        if values is not None and 0 < max(values) < 1:
            raise UserError(
                f"--{name} {' '.join(map(str, values))} counts on values of 0..1; --mean and --std are of "
                "0..255: multiply both by 255"
            )
    return Normalisation(
        order=options.order or "rgb",
        mean=tuple(options.mean or (0.0, 0.0, 0.0)),
        std=tuple(options.std or (1.0, 1.0, 1.0)),
    )


def unit_or_given(options: argparse.Namespace) -> Normalisation:
    """`normalisation`, but values of 0..1 where neither --mean nor --std is given.

    Raises:
        UserError: as `normalisation`.
    """
    given = normalisation(options)
    if given is not None and (options.mean is not None or options.std is not None):
        return given
    return UNIT.model_copy(update={"order": options.order or "rgb"})
