"""Stage prepare: render or find the images, check every one, write the manifest."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from afdcd.data.prepare import Keep, Progress, prepare
from afdcd.data.sources import open_source
from afdcd.files import sha256
from pipeline import paths
from pipeline.cli import arguments, run
from pipeline.params import load

LINE_SECONDS = 30.0
"""Between two lines of progress where stderr is no terminal."""


def main(given: list[str]) -> None:
    """Prepare the data set that params.yaml names, going on where a stopped run of the same code stood.

    Raises:
        UserError: the data is missing or faulty.
    """
    arguments(given)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    dataset = load().dataset
    source = open_source(dataset)
    with progress_bars() as progress:
        info = prepare(
            source,
            root=Path(dataset.root),
            folder=paths.PREPARED,
            progress=progress,
            unlabelled=dataset.unlabelled,
            keep=Keep(paths.CHECKED, _code(), dataset.model_dump_json()),
        )
    counts = ", ".join(f"{count} {split}" for split, count in info.splits.items())
    print(f"{info.name}: {counts} images, {len(info.classes)} classes")


def _code() -> str:
    """What stands for this stage's code: its fingerprint, where probe has written one."""
    try:
        return sha256(paths.FINGERPRINTS / "prepare.json")
    except FileNotFoundError:
        return "without probe"


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """A bar a task on stderr; a line now and then where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lines(LINE_SECONDS)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks = {}

        def advance(what: str, total: int, done: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.advance(tasks[what], done)

        yield advance


def lines(every: float) -> Progress:
    """Progress as a line on stderr every so many seconds, with the pace since the one before."""
    state: dict[str, tuple[int, int, float]] = {}

    def advance(what: str, total: int, done: int) -> None:
        now = time.monotonic()
        count, told, since = state.setdefault(what, (0, 0, now))
        count += done
        if now - since >= every:
            pace = (count - told) / (now - since)
            left = (total - count) / pace / 60 if pace else float("inf")
            print(
                f"{what} {count} of {total}: {pace:.0f} images/s, {left:.0f} min left",
                file=sys.stderr,
                flush=True,
            )
            told, since = count, now
        state[what] = count, told, since

    return advance


if __name__ == "__main__":
    run(main)
