"""Load on a server from outside: a closed loop of clients, or requests that arrive as a Poisson process.

In the closed loop a client asks again when it has its answer, so a slow server is asked less. In the open
one requests come when they come: a latency counts from the moment a request was meant to be sent, so a
stalled server cannot hide the requests that had to wait for it (coordinated omission).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from deploy.config import Config
from deploy.latency import Latency, summarise
from deploy.scenarios import arrivals

OK = "ok"
LATE_NS = 1_000_000

Call = Callable[[], str]
"""Asks once and tells how it went: `ok`, or the reason in a word."""


class Loaded(Config):
    """What a server did under load.

    Attributes:
        kind: closed or open loop.
        clients: connections, each with one request at a time.
        rate: requests a second that were meant to arrive; null in the closed loop.
        seconds: from the first request to the last answer.
        requests: that were answered or failed.
        unsent: that were meant to be sent and were not when the time was over; always 0 in the closed loop.
        outcomes: ok and each reason of failure -> how many.
        throughput: good answers a second.
        latency_ms: of good answers; null if there is none.
        sent_late: share of requests that left a millisecond or more after their time, for want of a client
            or a processor.
    """

    kind: Literal["closed", "open"]
    clients: int
    rate: float | None
    seconds: float
    requests: int
    unsent: int
    outcomes: dict[str, int]
    throughput: float
    latency_ms: Latency | None
    sent_late: float | None


def closed(calls: Sequence[Call], *, seconds: float, requests: int) -> Loaded:
    """Every client asks until the time is over or so many requests were made in all."""
    left, lock = iter(range(requests)), threading.Lock()
    found: list[tuple[str, int]] = []
    start = time.perf_counter_ns()
    end = start + int(seconds * 1e9)

    def work(call: Call) -> None:
        while True:
            with lock:
                if next(left, None) is None:
                    return
            begun = time.perf_counter_ns()
            if begun >= end:
                return
            outcome = call()
            found.append((outcome, time.perf_counter_ns() - begun))

    _together(work, calls)
    return _summary("closed", len(calls), None, time.perf_counter_ns() - start, found, 0, None)


def poisson(calls: Sequence[Call], *, rate: float, seconds: float, requests: int, seed: int = 0) -> Loaded:
    """Requests arrive at `rate` a second, whatever became of those before.

    Those that no client was free for when the time is over are not sent, and counted.
    """
    planned = [
        moment
        for moment in arrivals(rate, min(requests, _most(rate, seconds)), seed)
        if moment < seconds * 1e9
    ]
    turn, lock = iter(planned), threading.Lock()
    found: list[tuple[str, int]] = []
    late: list[bool] = []
    start = time.perf_counter_ns()
    end = start + int(seconds * 1e9)

    def work(call: Call) -> None:
        while True:
            with lock:
                planned_at = next(turn, None)
            if planned_at is None:
                return
            moment = start + planned_at
            now = time.perf_counter_ns()
            if now > end:
                return
            if moment > now:
                time.sleep((moment - now) / 1e9)
            late.append(time.perf_counter_ns() - moment >= LATE_NS)
            outcome = call()
            found.append((outcome, time.perf_counter_ns() - moment))

    _together(work, calls)
    took = time.perf_counter_ns() - start
    share = sum(late) / len(late) if late else None
    return _summary("open", len(calls), rate, took, found, len(planned) - len(found), share)


def _most(rate: float, seconds: float) -> int:
    """Arrivals to draw: more than five deviations above the expected, and never none."""
    expected = rate * seconds
    return int(expected + 6 * expected**0.5) + 8


def _together(work: Callable[[Call], None], calls: Sequence[Call]) -> None:
    """Run `work` on a thread a client; the first error is raised here, once all have ended."""
    failed: list[BaseException] = []

    def guarded(call: Call) -> None:
        try:
            work(call)
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def _summary(
    kind: Literal["closed", "open"],
    clients: int,
    rate: float | None,
    took: int,
    found: Sequence[tuple[str, int]],
    unsent: int,
    late: float | None,
) -> Loaded:
    good = [latency for outcome, latency in found if outcome == OK]
    return Loaded(
        kind=kind,
        clients=clients,
        rate=rate,
        seconds=round(took / 1e9, 3),
        requests=len(found),
        unsent=unsent,
        outcomes=dict(sorted(Counter(outcome for outcome, _ in found).items())),
        throughput=round(len(good) / (took / 1e9), 3),
        latency_ms=summarise(good) if good else None,
        sent_late=None if late is None else round(late, 4),
    )
