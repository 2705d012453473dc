"""What every verb does with its record: a table for people, JSON for programs, a file if asked for."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from afdcd.files import write_json
from deploy.config import Config


def add_out(verb: argparse.ArgumentParser) -> None:
    """The option that also writes the JSON."""
    verb.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON to this file")


def show(options: argparse.Namespace, record: Config | dict[str, Any], table: RenderableType) -> None:
    """Write the record where `add_out` was told to, and print it as JSON or as a table."""
    value = record.model_dump(mode="json") if isinstance(record, Config) else record
    if getattr(options, "out", None) is not None:
        write_json(options.out, value)
    if options.json:
        print(json.dumps(value, indent=1, sort_keys=True))
    else:
        Console().print(table)


def count(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def above_zero(text: str) -> float:
    """A finite number above 0, for argparse."""
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def share(text: str) -> float:
    """A number between 0 and 1, neither included, for argparse."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, got {text}")
    return value


def add_threads(verb: argparse.ArgumentParser) -> None:
    """The option for CPU threads."""
    verb.add_argument(
        "--threads", type=count, default=None, help="CPU threads; those of the bundle, or 1 for a file"
    )
