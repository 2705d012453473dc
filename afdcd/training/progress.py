"""What a person sees while a network trains: a live line on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


class Progress(Protocol):
    """Shows how far a training is."""

    def show(self, done: int, figures: Mapping[str, float], images_per_second: float) -> None:
        """`done` iterations are finished; `figures` are loss, raw terms and, once known, val_miou."""
        ...


class Silent:
    """Shows nothing: what every process but the first does."""

    def show(self, done: int, figures: Mapping[str, float], images_per_second: float) -> None:
        """Nothing."""


class Clock:
    """Estimates the time left from the pace since the start, or since the resumption."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._began: tuple[int, float] | None = None

    def left(self, done: int) -> str:
        """Time left as h:mm:ss, or `-` as long as it is unknown."""
        now = time.monotonic()
        if self._began is None or done <= self._began[0]:
            self._began = self._began or (done, now)
            return "-:--:--"
        seconds = (now - self._began[1]) / (done - self._began[0]) * (self.total - done)
        minutes, second = divmod(round(seconds), 60)
        hours, minute = divmod(minutes, 60)
        return f"{hours}:{minute:02}:{second:02}"


class Lines:
    """A line of the log every few seconds, at the end, and whenever there is a validation."""

    def __init__(self, name: str, total: int) -> None:
        self._name = name
        self._clock = Clock(total)
        self._last = 0.0

    def show(self, done: int, figures: Mapping[str, float], images_per_second: float) -> None:
        """Write a line if the last one is old enough."""
        left = self._clock.left(done)
        now = time.monotonic()
        if "val_miou" in figures or done == self._clock.total or now - self._last > SECONDS_BETWEEN_LINES:
            self._last = now
            logger.info(
                "%s %d/%d  %s  %.1f images/s  ETA %s",
                self._name, done, self._clock.total, told(figures), images_per_second, left,
            )  # fmt: skip


def told(figures: Mapping[str, float]) -> str:
    """The figures in a row, short."""
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())


class LiveLine:
    """rich's progress bar on stderr."""

    def __init__(self, name: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        self._clock = Clock(total)
        self.bar = Bar(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}  {task.fields[pace]}  {task.fields[figures]}"),
            console=Console(stderr=True),
        )
        self._task = self.bar.add_task(name, total=total, left="-:--:--", pace="", figures="")
        self._val = ""

    def show(self, done: int, figures: Mapping[str, float], images_per_second: float) -> None:
        """Redraw; the last validation stays in sight."""
        if "val_miou" in figures:
            self._val = f"  val_miou {figures['val_miou']:.4g}"
        current = {name: value for name, value in figures.items() if name != "val_miou"}
        self.bar.update(
            self._task,
            completed=done,
            left=f"ETA {self._clock.left(done)}",
            pace=f"{images_per_second:.1f} images/s",
            figures=told(current) + self._val,
        )


@contextmanager
def progress(name: str, total: int, shown: bool) -> Iterator[Progress]:
    """A live line if stderr is a terminal, else lines of the log; nothing unless `shown`."""
    if not shown:
        yield Silent()
    elif sys.stderr.isatty():
        live = LiveLine(name, total)
        with live.bar:
            yield live
    else:
        yield Lines(name, total)
