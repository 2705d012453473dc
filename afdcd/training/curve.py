"""A training curve: one row a reading, kept in the checkpoint and written as CSV at the end."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from afdcd.files import write_text

Row = dict[str, float]

FIRST = ("iteration", "seconds", "lr", "images_per_second", "loss")


def row(
    iteration: int, seconds: float, lr: float, images_per_second: float, figures: Mapping[str, float]
) -> Row:
    """A row of the curve; `figures` holds the loss, the terms and perhaps `val_miou`."""
    return {
        "iteration": iteration,
        "seconds": round(seconds, 3),
        "lr": lr,
        "images_per_second": round(images_per_second, 2),
        **figures,
    }


def write_curve(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV: iteration, seconds, lr, images_per_second, loss, the terms, val_miou.

    A cell is empty where a row has no such figure; without rows the file holds the header alone.
    """
    terms = dict.fromkeys(name for values in rows for name in values)
    middle = [name for name in terms if name not in FIRST and name != "val_miou"]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*FIRST, *middle, "val_miou"], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
