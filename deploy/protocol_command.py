"""The options of `python -m deploy evaluate` that choose a protocol of papers, and what they do."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from afdcd.errors import UserError
from afdcd.files import write_text
from deploy import submission
from deploy.bundle import Contract
from deploy.evaluate import Sample, Score
from deploy.pairs import IMAGES, open_image
from deploy.progress import track
from deploy.protocols import (
    Keep,
    ProtocolConfig,
    ProtocolScore,
    evaluate_protocol,
    per_class_csv,
    predict,
    resolved,
)
from deploy.sessions import Session

PROTOCOL = ("view", "crop", "stride", "flip", "scales", "absent", "boundary")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add them; each unset one is None."""
    group = parser.add_argument_group(
        "protocols of papers",
        "on the engine's logits; any of these makes a record of another kind, which no gate reads",
    )
    group.add_argument("--view", choices=["whole", "slide"], help="the whole image at once, or windows")
    sides = {"type": int, "nargs": 2, "metavar": ("HEIGHT", "WIDTH")}
    group.add_argument("--crop", **sides, help="of a window; the engine's input size")  # type: ignore[arg-type]
    group.add_argument("--stride", **sides, help="two thirds of the crop")  # type: ignore[arg-type]
    group.add_argument("--flip", action="store_true", default=None, help="average with the mirrored image")
    group.add_argument("--scales", type=float, nargs="+", metavar="SCALE", help="average over these sizes")
    group.add_argument(
        "--absent", choices=["skip", "zero"], help="what a class without a pixel counts in the mean; skip"
    )
    group.add_argument(
        "--boundary", type=float, metavar="SHARE", help="also Boundary IoU, of a band of 0.02 of the diagonal"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write a line a class")
    parser.add_argument(
        "--submission",
        type=Path,
        metavar="FOLDER",
        help="also write Cityscapes' labelIds PNGs at the images' own size; without --masks nothing else",
    )


def chosen(options: argparse.Namespace) -> ProtocolConfig | None:
    """The protocol that the options name; None where they name none.

    Raises:
        UserError: an impossible combination.
    """
    given = {key: getattr(options, key) for key in PROTOCOL if getattr(options, key) is not None}
    if not given and options.submission is None:
        return None
    view = "slide" if options.crop or options.stride else "whole"
    plain = {"view": view, "crop": None, "stride": None, "flip": False, "scales": [1.0]}
    try:
        return ProtocolConfig.model_validate({**plain, "absent": "skip", "boundary": None, **given})
    except ValidationError as error:
        first = error.errors()[0]
        place = "--" + str(first["loc"][0]) if first["loc"] else "the protocol"
        raise UserError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from None


def score(
    session: Session,
    samples: Iterator[Sample],
    options: argparse.Namespace,
    protocol: ProtocolConfig,
    engine: str,
) -> ProtocolScore:
    """Score by the protocol, and write the submission's files where they are asked for.

    Raises:
        UserError: see `deploy.protocols.evaluate_protocol` and `deploy.submission`.
    """
    keep = None
    if options.submission is not None:
        keep = _writer(options.submission, session.contract)
    return evaluate_protocol(session, samples, session.contract, protocol, engine=engine, keep=keep)


def submit(session: Session, options: argparse.Namespace, protocol: ProtocolConfig) -> int:
    """Write the submission's files for images without masks, sub-folders included; returns how many.

    Raises:
        UserError: no image, one that cannot be read, or one that is not named as Cityscapes' are.
    """
    if not options.images.is_dir():
        raise UserError(f"{options.images} is no folder; give the one with the images")
    found = sorted(path for path in options.images.rglob("*") if path.suffix.lower() in IMAGES)
    if not found:
        raise UserError(f"{options.images} holds no image ({', '.join(sorted(IMAGES))}); put some there")
    for path in found:
        submission.file_name(path.stem)
    used, keep = resolved(protocol, session.contract), _writer(options.submission, session.contract)
    for path in track(found, "predictions", len(found)):
        image = np.asarray(open_image(path).convert("RGB"), dtype=np.uint8)
        keep(path.stem, predict(session, image, session.contract, used))
    return len(found)


def _writer(folder: Path, contract: Contract) -> Keep:
    """Writes class maps as labelIds into a folder."""
    table = submission.label_ids(contract.classes)
    folder.mkdir(parents=True, exist_ok=True)
    return lambda name, prediction: submission.write(folder, name, prediction, table)


def write_csv(path: Path | None, found: ProtocolScore | Score) -> None:
    """Write the line a class where a path is given."""
    if path is not None:
        write_text(path, per_class_csv(found))
