from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from afdcd.errors import UserError
from deploy.latency import Latency
from deploy.scenarios import Load, Scenario, arrivals, offline, run, search, server


def test_arrivals_are_a_poisson_process() -> None:
    gaps = np.diff([0, *arrivals(100.0, 20_000)]) / 1e9
    assert gaps.mean() == pytest.approx(0.01, rel=0.03) and gaps.std() == pytest.approx(0.01, rel=0.05)
    assert arrivals(5.0, 9) == arrivals(5.0, 9)


def test_offline_runs_its_streams_side_by_side() -> None:
    both = threading.Barrier(2, timeout=10)
    found = offline([lambda: both.wait(), lambda: both.wait()], 0.0)
    assert found.queries == 2 and found.streams == 2 and found.latency_ms is None


def test_a_server_latency_holds_the_wait_for_a_stalled_engine() -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        time.sleep(0.2 if len(calls) == 1 else 0.0)

    found = run([call], Scenario("server", 1, 0.0, 1000.0, 100))
    assert found.latency_ms is not None and len(calls) == found.queries == 100
    # One call stalls; the hundred that arrive meanwhile wait for it, and all of them say so.
    assert found.latency_ms.p50 > 80 and found.latency_ms.p99 is None


def test_an_error_in_a_stream_is_raised() -> None:
    def fail() -> None:
        raise UserError("broken")

    with pytest.raises(UserError, match="broken"):
        server([fail], 1000.0, 3)


def load(rate: float) -> Load:
    """A queue whose p99 is 1 s over what is left of a capacity of 100."""
    p99 = 1000 / max(100 - rate, 0.001)
    times = Latency(samples=662, min=1, mean=1, p50=1, p90=1, p99=p99)
    return Load(kind="server", streams=1, queries=662, throughput=rate, rate=rate, latency_ms=times)


def test_the_highest_rate_that_keeps_the_target_is_found() -> None:
    found = search(load, most=120.0, target_ms=50.0, steps=10)
    assert found.rate == pytest.approx(80.0, abs=0.2) and found.rate <= 80.0
    with pytest.raises(UserError, match="p99 stays above 5 ms"):
        search(load, most=120.0, target_ms=5.0)
