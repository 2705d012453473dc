"""`python -m deploy doctor`: what this machine can build and run, and what it lacks."""

from __future__ import annotations

import argparse

from deploy import hardware, tables
from deploy.cli import Verbs
from deploy.cli.output import add_out, show
from deploy.sessions.capability import GPU_BACKENDS, PRECISIONS, capability


def add(command: Verbs) -> None:
    """The verb and its arguments."""
    verb = command("doctor", "which engines this machine can run, and what the others lack")
    add_out(verb)
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Ask for every engine in every precision."""
    precisions = {**PRECISIONS, **dict.fromkeys(GPU_BACKENDS, ("fp16",))}
    engines = {
        f"{backend} {precision}": capability(backend, precision)
        for backend, possible in precisions.items()
        for precision in possible
    }
    show(options, {"engines": engines, "hardware": hardware.describe()}, tables.engines(engines))
