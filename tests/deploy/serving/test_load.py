from __future__ import annotations

import threading
import time

import pytest

from deploy.serving.load import closed, poisson


def test_closed_counts_answers_and_reasons_and_ends_at_the_limit() -> None:
    turn = iter(range(100))

    def ask() -> str:
        time.sleep(0.001)
        return "503" if next(turn) % 4 == 0 else "ok"

    found = closed([ask], seconds=30, requests=20)
    assert found.requests == 20 and found.outcomes == {"503": 5, "ok": 15} and found.unsent == 0
    assert found.latency_ms is not None and found.latency_ms.samples == 15 and found.latency_ms.min >= 1
    assert found.throughput == pytest.approx(15 / found.seconds, rel=0.1)  # seconds are rounded


def test_closed_ends_in_time_and_its_clients_run_side_by_side() -> None:
    together = threading.Barrier(3, timeout=5)

    def ask() -> str:
        together.wait()
        return "ok"

    started = time.monotonic()
    found = closed([ask] * 3, seconds=30, requests=9)
    assert found.outcomes == {"ok": 9} and time.monotonic() - started < 10
    found = closed([lambda: time.sleep(0.01) or "ok"], seconds=0.1, requests=10**6)
    assert 1 <= found.requests <= 11 and found.seconds < 1


def test_a_stall_counts_for_all_that_had_to_wait() -> None:
    """One stall of 300 ms at 200 requests a second: a closed loop sees it once, the open one in dozens."""
    turn = iter(range(10**6))

    def ask() -> str:
        if next(turn) == 20:
            time.sleep(0.3)
        return "ok"

    found = poisson([ask], rate=200, seconds=2, requests=300)
    assert found.requests + found.unsent == 300 and found.latency_ms is not None
    assert found.latency_ms.p90 is not None and found.latency_ms.p90 > 30
    assert found.latency_ms.max is not None and found.latency_ms.max >= 300
    assert found.sent_late is not None and found.sent_late > 0.1


def test_an_overloaded_server_does_not_hold_the_run_up() -> None:
    started = time.monotonic()
    found = poisson([lambda: time.sleep(0.05) or "ok"], rate=200, seconds=0.5, requests=10**6)
    assert time.monotonic() - started < 3
    assert found.unsent > 50 and found.requests <= 12
    assert found.requests + found.unsent == pytest.approx(100, abs=60)


def test_nothing_good_gives_no_latency() -> None:
    found = closed([lambda: "no answer"], seconds=5, requests=3)
    assert found.latency_ms is None and found.throughput == 0 and found.outcomes == {"no answer": 3}


def test_an_error_of_a_client_is_raised() -> None:
    def broken() -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        closed([broken, lambda: "ok"], seconds=1, requests=10)
