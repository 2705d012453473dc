"""`python -m deploy verify`: the files of a bundle against its manifest."""

from __future__ import annotations

import argparse
from pathlib import Path

from deploy import tables
from deploy.bundle import verify
from deploy.cli import Verbs
from deploy.cli.output import add_out, show


def add(command: Verbs) -> None:
    """The verb and its arguments."""
    verb = command("verify", "check every file of a bundle against its manifest")
    verb.add_argument("bundle", type=Path)
    add_out(verb)
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Check the bundle.

    Raises:
        UserError: a file is missing or altered.
    """
    manifest = verify(options.bundle)
    show(options, manifest, tables.contents(manifest))
