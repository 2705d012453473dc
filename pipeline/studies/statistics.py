"""Means, spreads, and the interval of a paired difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

LEVEL = 0.95


class Interval(NamedTuple):
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0

    @property
    def half_width(self) -> float:
        """What an effect must exceed to be seen."""
        return (self.high - self.low) / 2


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float | None:
    """The sample's standard deviation (n - 1); None for a single value."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def t_probability(t: float, degrees: int) -> float:
    """P(|T| <= t) of Student's t, t >= 0: the finite sums for whole degrees of freedom.

    Source: Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    angle = math.atan2(t, math.sqrt(degrees))
    cosine = math.cos(angle)
    odd = degrees % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(1, degrees // 2 + 1):
        total += term
        term *= cosine**2 * (2 * k - 1 + odd) / (2 * k + odd)
    part = math.sin(angle) * total
    return 2 / math.pi * (angle + part) if odd else part


def t_quantile(level: float, degrees: int) -> float:
    """The t that |T| stays below with probability `level`: 4.303 for 0.95 and two degrees of freedom.

    Raises:
        ValueError: no degree of freedom, or no probability.
    """
    if degrees < 1 or not 0 < level < 1:
        raise ValueError(f"no quantile of level {level} for {degrees} degrees of freedom")
    high = 1.0
    while t_probability(high, degrees) < level:
        high *= 2
    return _root(lambda t: t_probability(t, degrees) - level, 0.0, high)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising function crosses zero, by halving."""
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return middle


def interval(differences: Sequence[float], level: float = LEVEL) -> Interval | None:
    """The mean of paired differences with Student's interval; None for fewer than two."""
    spread = deviation(differences)
    if spread is None:
        return None
    centre = mean(differences)
    half = t_quantile(level, len(differences) - 1) * spread / math.sqrt(len(differences))
    return Interval(centre, centre - half, centre + half)


def false_exclusions(intervals: int, level: float = LEVEL) -> float:
    """How many of so many intervals exclude zero on average where there is no effect at all."""
    return intervals * (1 - level)
