"""A progress bar on stderr, only where a person watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Yield a function that advances the bar by one; nothing is drawn where stderr is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Pass `items` through and show how many went by."""
    with bar(what, total) as advance:
        for item in items:
            yield item
            advance()
