"""A server under more load than it can carry, and under much of it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from serving_load import INFER, load, request
from serving_process import Server
from slow_engine import write_slow_engine

pytestmark = pytest.mark.xdist_group("serving")


def overload(folder: Path, seconds: float) -> None:
    write_slow_engine(folder / "bundle", "painter", highest=1, products=20)
    given = ("--sessions", "1", "--queue", "2", "--log", "warning")
    with Server(folder / "bundle", *given, log=folder / "log") as server:
        ends = time.monotonic() + seconds
        times: list[tuple[float, float, float]] = []
        counts = load(server, 15, lambda: time.monotonic() > ends, {200, 503}, times)
        assert counts[200] > 5 and counts[503] > 5
        queue, compute, whole = (np.percentile(kind, 99) for kind in zip(*times, strict=True))
        # Two wait before it and one runs; fifteen would wait in a queue without a bound.
        assert queue < 4 * compute + 20 and whole < 1000, (queue, compute, whole)
        body, headers = request(1)
        assert server.ask("POST", INFER, body, headers).status == 200
        late = server.ask("POST", INFER, body, {**headers, "x-request-timeout-ms": "1"})
        assert late.status == 504
        text = server.ask("GET", "/metrics").body.decode()
        assert 'outcome="queue_full"' in text and 'outcome="deadline"' in text


def test_beyond_capacity_answers_stay_right(tmp_path: Path) -> None:
    overload(tmp_path, 1.0)


@pytest.mark.slow
def test_beyond_capacity_for_a_minute(tmp_path: Path) -> None:
    overload(tmp_path, 60.0)


@pytest.mark.slow
def test_twenty_thousand_requests_leave_no_memory_behind(server: Server) -> None:
    def resident() -> float:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6

    def ask(count: int) -> None:
        left, lock = iter(range(count)), threading.Lock()

        def more() -> bool:
            with lock:
                return next(left, None) is None

        assert set(load(server, 4, more, {200})) == {200}

    ask(2000)
    before = resident()
    ask(20_000)
    assert resident() < before + 5
