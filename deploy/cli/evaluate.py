"""`python -m deploy evaluate`: accuracy of a bundle on a folder of images with masks."""

from __future__ import annotations

import argparse
from pathlib import Path

from afdcd.errors import UserError
from afdcd.files import sha256
from deploy import protocol_command, tables
from deploy.bundle import MANIFEST, verify
from deploy.cli import Verbs
from deploy.cli.output import add_out, add_threads, show
from deploy.evaluate import evaluate
from deploy.pairs import pair, read
from deploy.progress import track
from deploy.sessions import open_session


def add(command: Verbs) -> None:
    """The verb and its arguments."""
    verb = command("evaluate", "accuracy of a bundle on images with masks of class numbers")
    verb.add_argument("bundle", type=Path)
    verb.add_argument("--images", type=Path, required=True)
    verb.add_argument("--masks", type=Path, help="<image name>.png each")
    add_threads(verb)
    add_out(verb)
    protocol_command.add_options(verb)
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Score the bundle, by the plain way or by a protocol of papers.

    Raises:
        UserError: a file is altered, or images and masks do not go together.
    """
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
        show(options, scored, tables.protocol(scored))
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
    show(options, found.score, tables.accuracy(found.score))
