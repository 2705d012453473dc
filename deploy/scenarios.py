"""Load beyond one stream of calls, after MLPerf: offline (as much as goes) and server (Poisson arrivals)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from afdcd.errors import UserError
from deploy.config import Config
from deploy.latency import MIN_SAMPLES, Latency, summarise

Call = Callable[[], object]


class Scenario(NamedTuple):
    """What to do: `streams` threads for `seconds`, or `rate` arrivals a second, `queries` of them."""

    kind: Literal["offline", "server"]
    streams: int
    seconds: float
    rate: float
    queries: int


class Load(Config):
    """What came of it.

    Attributes:
        kind: offline or server.
        streams: calls that ran at the same time at most.
        queries: calls that were finished.
        throughput: finished calls a second, each a batch.
        rate: arrivals a second that were asked for; null offline.
        latency_ms: from arrival, waiting included, to the end of the call; null offline.
    """

    kind: Literal["offline", "server"]
    streams: int
    queries: int
    throughput: float
    rate: float | None
    latency_ms: Latency | None


def arrivals(rate: float, queries: int, seed: int = 0) -> list[int]:
    """Nanoseconds from the start at which queries of a Poisson process arrive."""
    gaps = np.random.default_rng(seed).exponential(1e9 / rate, queries)
    return [int(moment) for moment in np.cumsum(gaps)]


def offline(calls: Sequence[Call], seconds: float) -> Load:
    """Every stream calls again and again until the time is over; each at least once."""
    start = time.perf_counter_ns()
    end = start + int(seconds * 1e9)
    counts = [0] * len(calls)

    def work(index: int) -> None:
        while counts[index] == 0 or time.perf_counter_ns() < end:
            calls[index]()
            counts[index] += 1

    _together(work, len(calls))
    took = (time.perf_counter_ns() - start) / 1e9
    return Load(
        kind="offline",
        streams=len(calls),
        queries=sum(counts),
        throughput=round(sum(counts) / took, 3),
        rate=None,
        latency_ms=None,
    )


def server(calls: Sequence[Call], rate: float, queries: int) -> Load:
    """Queries arrive when they arrive, whether or not the engine has time for them.

    A latency counts from the planned arrival: a stalled engine cannot hold back, and so hide, the queries
    that would have had to wait (coordinated omission).
    """
    planned = arrivals(rate, queries)
    latencies = [0] * queries
    turn, lock = iter(range(queries)), threading.Lock()
    start = time.perf_counter_ns()

    def work(index: int) -> None:
        while True:
            with lock:
                number = next(turn, None)
            if number is None:
                return
            moment = start + planned[number]
            if (ahead := moment - time.perf_counter_ns()) > 0:
                time.sleep(ahead / 1e9)
            calls[index]()
            latencies[number] = time.perf_counter_ns() - moment

    _together(work, len(calls))
    took = (time.perf_counter_ns() - start) / 1e9
    return Load(
        kind="server",
        streams=len(calls),
        queries=queries,
        throughput=round(queries / took, 3),
        rate=round(rate, 4),
        latency_ms=summarise(latencies),
    )


def run(calls: Sequence[Call], scenario: Scenario) -> Load:
    """Put the load on the streams."""
    if scenario.kind == "offline":
        return offline(calls, scenario.seconds)
    return server(calls, scenario.rate, scenario.queries)


def search(serve: Callable[[float], Load], most: float, target_ms: float, steps: int = 5) -> Load:
    """The run with the highest rate found whose p99 keeps the target, by halving the range.

    Args:
        serve: runs the server scenario at a rate, with queries enough to tell a p99.
        most: a rate that is too high or just reached, such as the offline throughput.
        target_ms: the most that p99 may be.
        steps: how often the range is halved.

    Raises:
        UserError: not even the lowest rate tried keeps the target.
    """
    low, high, best = 0.0, most, None
    for _ in range(steps):
        middle = (low + high) / 2
        found = serve(middle)
        p99 = None if found.latency_ms is None else found.latency_ms.p99
        if p99 is not None and p99 <= target_ms:
            low, best = middle, found
        else:
            high = middle
    if best is None:
        raise UserError(
            f"p99 stays above {target_ms:g} ms at {high:.2f} queries a second too; raise --target-ms"
        )
    return best


QUERIES = MIN_SAMPLES[99]
"""Fewest of a server run: without them there is no p99."""


def _together(work: Callable[[int], None], count: int) -> None:
    """Run `work` on so many threads; the first error is raised here."""
    failed: list[BaseException] = []

    def guarded(index: int) -> None:
        try:
            work(index)
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
