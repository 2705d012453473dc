"""The numbers of the last run as a table, and where the report lies: what `make demo` ends with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from afdcd.errors import UserError
from afdcd.files import read_json
from deploy.bundle import MANIFEST, read_manifest
from pipeline import cli, paths
from pipeline.params import Params, load
from pipeline.results import REFERENCE_BACKEND

COLUMNS = {"miou": "mIoU %", "p50_ms": "p50 ms", "speedup": "x teacher", "size_mb": "MB"}
"""Key of metrics.json -> heading."""


def table(params: Params, metrics: dict[str, Any]) -> str:
    """A line a model and target in the order of params; what is released, or is to be, is marked.

    Raises:
        UserError: the metrics are those of another params.yaml.
    """
    rows = [["model", "target", *COLUMNS.values(), ""]]
    for target in params.deploy.targets:
        for model in params.deploy.models:
            try:
                found = metrics[model][target]
            except KeyError:
                raise UserError(f"{paths.METRICS} lacks {model} on {target}; run dvc repro") from None
            rows.append(
                [model, target, *(_figure(found[key]) for key in COLUMNS), _mark(params, model, target)]
            )
    return aligned(rows, left=2)


def _mark(params: Params, model: str, target: str) -> str:
    """Whether this very engine lies in models/release, or shall go there once every gate is met."""
    deploy = params.deploy
    if model not in deploy.release or deploy.specs[target].backend == REFERENCE_BACKEND:
        return ""
    released, engine = paths.RELEASE / model / target, paths.engine(target, model)
    if not (released / MANIFEST).exists() or not (engine / MANIFEST).exists():
        return "to release"
    same = read_manifest(released).files == read_manifest(engine).files
    return "released" if same else "to release"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def aligned(rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Rows as lines of equal columns, the first `left` of them and the last flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(widths) - 1
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < left or index == last else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def main(given: list[str]) -> None:
    """Print the table of the last run."""
    cli.arguments(given)
    print(table(load(), read_json(paths.METRICS)))
    print(f"\nreport:  {paths.REPORT.resolve()}\nrelease: {paths.RELEASE.resolve()}")


if __name__ == "__main__":
    cli.run(main)
