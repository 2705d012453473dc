"""`python -m deploy check`: what an engine would refuse or misread in an ONNX file."""

from __future__ import annotations

import argparse
from pathlib import Path

from afdcd.errors import UserError
from deploy import tables
from deploy.check import ONNX_BACKENDS, check_file
from deploy.cli import Verbs
from deploy.cli.output import add_out, show


def add(command: Verbs) -> None:
    """The verb and its arguments."""
    verb = command("check", "a static look at an ONNX file for an engine: what it would refuse or misread")
    verb.add_argument("graph", type=Path, metavar="ONNX")
    verb.add_argument("--for", dest="backend", required=True, choices=ONNX_BACKENDS)
    add_out(verb)
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Look at the graph.

    Raises:
        UserError: it cannot be read, or an error was found.
    """
    found = check_file(options.graph, options.backend)
    listed = [finding.model_dump() for finding in found]
    show(options, {"backend": options.backend, "findings": listed}, tables.findings(found))
    errors = sum(finding.level == "error" for finding in found)
    if errors:
        raise UserError(
            f"{options.graph} is not sound for {options.backend}: {errors} error(s), listed above"
        )
