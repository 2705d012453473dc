"""`python -m deploy doctor`: what this machine can build and run, what it lacks, and what clashes."""

from __future__ import annotations

import argparse

from deploy import hardware, tables
from deploy.clashes import clashes, libraries
from deploy.cli import Verbs
from deploy.cli.output import add_out, show
from deploy.sessions.capability import GPU_BACKENDS, PRECISIONS, capability


def add(command: Verbs) -> None:
    """The verb and its arguments."""
    verb = command("doctor", "which engines this machine can run, what the others lack, and what clashes")
    add_out(verb)
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Ask for every engine in every precision; clashes are warnings, and the exit code stays 0."""
    precisions = {**PRECISIONS, **dict.fromkeys(GPU_BACKENDS, ("fp16",))}
    engines = {
        f"{backend} {precision}": capability(backend, precision)
        for backend, possible in precisions.items()
        for precision in possible
    }
    installed, found = libraries(), clashes()
    record = {
        "engines": engines,
        "libraries": installed,
        "clashes": [clash.model_dump() for clash in found],
        "hardware": hardware.describe(),
    }
    show(options, record, tables.engines(engines, installed, found))
