"""How far a study is, and how long the rest takes by the measured costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import Any

from pipeline.studies.plan import Run

START = 8.0
"""Seconds for DVC, Python and torch to start, about; what trainings take corrects it."""


class Outlook:
    """Counts trainings and estimates the time left."""

    def __init__(
        self, runs: Sequence[Run], todo: Collection[str], costs: Mapping[str, Any], jobs: int
    ) -> None:
        """Take stock.

        Args:
            runs: all trainings.
            todo: stages of those that are left.
            costs: of a step, as `pipeline.studies.costs` writes them.
            jobs: trainings at once.
        """
        self._total, self._jobs = len(runs), jobs
        step = {recipe: cost["wall_seconds"] for recipe, cost in costs["recipes"].items()}
        self._left = {
            run.stage: START + run.iterations * step[run.recipe] for run in runs if run.stage in todo
        }
        self._slower: list[float] = []

    @property
    def seconds_left(self) -> float:
        """Wall seconds: steps by their measured cost, times what trainings so far took beyond that."""
        factor: float = median(self._slower) if self._slower else 1.0
        seconds: float = factor * sum(self._left.values()) / self._jobs
        return seconds

    def ended(self, stage: str, wall: float) -> str:
        """Note a training that ended after `wall` seconds; returns the line to show."""
        self._slower.append(wall / self._left.pop(stage))
        return f"{self.line()}; {stage} took {wall:.0f} s"

    def line(self) -> str:
        """done/total and the time left."""
        return f"[{self._total - len(self._left)}/{self._total}] about {duration(self.seconds_left)} left"


def duration(seconds: float) -> str:
    """Seconds as hours and minutes, or as seconds where they are few."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"
