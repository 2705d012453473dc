"""Statistics of a latency run: percentiles that the sample size allows, spread over rounds, paired ratios."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deploy.config import Config

MIN_SAMPLES = {90: 64, 95: 130, 99: 662}
"""Fewest calls from which a percentile is told; MLPerf's LoadGen refuses below them too (early stopping).

Of so many calls, two or more exceed the true percentile in 99 of 100 runs.
"""


class Latency(Config):
    """Milliseconds a call; a percentile is null when there were too few calls to tell it."""

    samples: int
    min: float
    mean: float
    p50: float
    p90: float | None
    p99: float | None
    p95: float | None = None
    max: float | None = None


class Steadiness(Config):
    """How far the medians of the rounds lie apart: `cv` is their standard deviation over their mean."""

    cv: float
    stable: bool
    reason: str | None


def _percentile(values: np.ndarray[tuple[int], np.dtype[np.float64]], percent: int) -> float | None:
    if values.size < MIN_SAMPLES[percent]:
        return None
    return round(float(np.percentile(values, percent)), 6)


def summarise(nanoseconds: Sequence[int]) -> Latency:
    """Latency over all calls of a run, from nanoseconds."""
    values = np.asarray(nanoseconds, dtype=np.float64) / 1e6
    return Latency(
        samples=values.size,
        min=round(float(values.min()), 6),
        mean=round(float(values.mean()), 6),
        p50=round(float(np.median(values)), 6),
        p90=_percentile(values, 90),
        p99=_percentile(values, 99),
        p95=_percentile(values, 95),
        max=round(float(values.max()), 6),
    )


def medians(rounds: Sequence[Sequence[int]]) -> list[float]:
    """The median of each round, from nanoseconds to milliseconds."""
    return [round(float(np.median(calls)) / 1e6, 6) for calls in rounds]


def steadiness(round_medians: Sequence[float], max_cv: float) -> Steadiness:
    """Judge a run by its rounds' medians; a run of one round cannot show that it is stable."""
    values = np.asarray(round_medians, dtype=np.float64)
    if values.size < 2:
        return Steadiness(cv=0.0, stable=False, reason="one round only: its spread is unknown")
    cv = round(float(values.std(ddof=1) / values.mean()), 6)
    if cv <= max_cv:
        return Steadiness(cv=cv, stable=True, reason=None)
    reason = f"the medians of {values.size} rounds vary by {cv:.1%} (limit {max_cv:.1%})"
    return Steadiness(cv=cv, stable=False, reason=reason)


def paired_ratio(baseline: Sequence[float], medians_: Sequence[float]) -> float:
    """How many times faster than the baseline: the median over rounds of the ratio within a round.

    Both ran in turn within each round, so what slows the machine for a while slows both.
    """
    return round(float(np.median(np.asarray(baseline) / np.asarray(medians_))), 4)
