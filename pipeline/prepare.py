"""Stage prepare: render or find the images, check every one, write the manifest."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from afdcd.data.prepare import Progress, prepare
from afdcd.data.sources import open_source
from pipeline import paths
from pipeline.cli import arguments, run
from pipeline.params import load


def main(given: list[str]) -> None:
    """Prepare the data set that params.yaml names.

    Raises:
        UserError: the data is missing or faulty.
    """
    arguments(given)
    dataset = load().dataset
    source = open_source(dataset)
    with progress_bars() as progress:
        info = prepare(source, root=Path(dataset.root), folder=paths.PREPARED, progress=progress)
    counts = ", ".join(f"{count} {split}" for split, count in info.splits.items())
    print(f"{info.name}: {counts} images, {len(info.classes)} classes")


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """A bar a task on stderr; nothing where stderr is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bars:
        tasks = {}

        def advance(what: str, total: int, done: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.advance(tasks[what], done)

        yield advance


if __name__ == "__main__":
    run(main)
