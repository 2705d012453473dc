"""The shipping half for a person with only a file: `python -m deploy COMMAND`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from afdcd.errors import UserError
from afdcd.files import disk_errors

VERBS = (
    "export",
    "quantize",
    "build",
    "parity",
    "evaluate",
    "benchmark",
    "compare",
    "kit",
    "measure",
    "serve",
    "bench-server",
    "triton-repo",
    "verify",
    "check",
    "doctor",
)
"""In the order that --help lists them."""


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, does: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=does, description=does)
        added.add_argument("--json", action="store_true", help="print JSON instead of a table")
        return added

    # The other verbs stay unread: a server is to start at once.
    for verb in given[:1] if given and given[0] in VERBS else VERBS:
        import_module(f"deploy.cli.{verb.replace('-', '_')}").add(command)
    return parser


def main(given: list[str] | None = None) -> None:
    """Run a command; an error a person can mend is one sentence and exit 1, Ctrl-C is exit 130."""
    given = sys.argv[1:] if given is None else given
    options = _parser(given).parse_args(given)
    try:
        with disk_errors(Path("the output")):
            options.run(options)
            _flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _flush() -> None:
    """Write out what was printed, here, where a full disk can still become a sentence."""
    try:
        sys.stdout.flush()
    except OSError:
        # The interpreter would try again at exit, and complain in its own words.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


if __name__ == "__main__":
    main()
