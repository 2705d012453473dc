"""`python -m deploy evaluate`: accuracy of a bundle or an ONNX file on a folder of images with masks."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from afdcd.errors import UserError
from afdcd.files import sha256
from deploy import protocol_command, tables
from deploy.bundle import MANIFEST, Contract, verify
from deploy.cli import Verbs
from deploy.cli.output import add_out, add_threads, show
from deploy.cli.plain import add_plain, adopted, refuse_plain
from deploy.evaluate import evaluate
from deploy.pairs import pair, read
from deploy.progress import track
from deploy.sessions import Session, open_backend, open_session


def add(command: Verbs) -> None:
    """The verb and its arguments."""
    verb = command("evaluate", "accuracy of a bundle or ONNX file on images with masks of class numbers")
    verb.add_argument("bundle", type=Path, metavar="BUNDLE_OR_ONNX")
    verb.add_argument("--images", type=Path, required=True)
    verb.add_argument("--masks", type=Path, help="<image name>.png each")
    add_threads(verb)
    add_out(verb)
    protocol_command.add_options(verb)
    add_plain(verb)
    verb.set_defaults(run=run)


class _Engine(NamedTuple):
    """What is scored, how it is opened, and the hash that the record names it by."""

    contract: Contract
    open: Callable[[], Session]
    sha256: str


def run(options: argparse.Namespace) -> None:
    """Score the engine, by the plain way or by a protocol of papers.

    Raises:
        UserError: a file is altered, or images and masks do not go together.
    """
    protocol = protocol_command.chosen(options)
    if options.masks is None and options.submission is None:
        raise UserError("--masks is missing; only --submission works without")
    engine = _engine(options)
    contract = engine.contract
    if options.masks is None and protocol is not None:
        with engine.open() as session:
            count = protocol_command.submit(session, options, protocol)
        print(f"{count} files of labelIds in {options.submission}")
        return
    pairs = pair(options.images, options.masks)
    if protocol is not None:
        with engine.open() as session:
            samples = iter(track(read(pairs), contract.model, len(pairs)))
            scored = protocol_command.score(session, samples, options, protocol, engine.sha256)
        protocol_command.write_csv(options.csv, scored)
        show(options, scored, tables.protocol(scored))
        return
    with engine.open() as session:
        found = evaluate(
            session,
            track(read(pairs), contract.model, len(pairs)),
            classes=contract.classes,
            ignore_index=contract.ignore_index,
            size=contract.geometry.size,
            mode=contract.geometry.fit,
            gallery=0,
            engine=engine.sha256,
        )
    protocol_command.write_csv(options.csv, found.score)
    show(options, found.score, tables.accuracy(found.score))


def _engine(options: argparse.Namespace) -> _Engine:
    """A bundle on its own backend, or a file under the contract in ONNX Runtime."""
    path = options.bundle
    if path.is_dir():
        refuse_plain(options, path)
        manifest = verify(path)
        threads = options.threads or manifest.threads
        return _Engine(
            manifest.contract, lambda: open_session(path, threads=threads), sha256(path / MANIFEST)
        )
    taken = adopted(path, options)

    def open_file() -> Session:
        read_file = taken.files.__getitem__
        return open_backend("onnxruntime", taken.contract, read_file, threads=options.threads or 1)

    return _Engine(taken.contract, open_file, taken.contract.weights_sha256)
