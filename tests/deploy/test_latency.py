from __future__ import annotations

import numpy as np
import pytest

from deploy import latency


def test_percentiles_need_enough_calls() -> None:
    few, some, many = (latency.summarise([1_000_000] * count) for count in (63, 64, 662))
    assert (few.p90, few.p99) == (None, None)
    assert (some.p90, some.p99) == (1.0, None)
    assert (many.p90, many.p99) == (1.0, 1.0)


def test_figures_are_milliseconds() -> None:
    result = latency.summarise([int(1e6 * value) for value in range(1, 1001)])
    assert (result.samples, result.min, result.mean, result.p50) == (1000, 1.0, 500.5, 500.5)
    assert result.p90 == pytest.approx(np.percentile(np.arange(1, 1001), 90))
    assert result.p99 == pytest.approx(np.percentile(np.arange(1, 1001), 99))


def test_rounds_that_drift_are_unstable() -> None:
    steady = latency.steadiness([10.0, 10.1, 9.9], 0.1)
    assert steady.stable and steady.reason is None and steady.cv == pytest.approx(0.01, abs=1e-4)
    drifting = latency.steadiness([10.0, 13.0, 17.0], 0.1)
    assert not drifting.stable and drifting.reason and "26.3%" in drifting.reason


def test_one_round_is_never_called_stable() -> None:
    assert not latency.steadiness([10.0], 0.1).stable


def test_the_paired_ratio_cancels_a_slow_spell() -> None:
    assert latency.paired_ratio([20.0, 60.0, 20.0], [10.0, 30.0, 10.0]) == 2.0
    assert latency.medians([[1_000_000, 3_000_000, 2_000_000]]) == [2.0]
