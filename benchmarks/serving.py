"""What the server adds to an engine, against what was asked of it, in one table; about four minutes.

python benchmarks/serving.py

Two engines of uint8 256x512 are made for it: one of about 20 ms of one core (matrix products), and one that
only cuts the first third out of its input, so that next to nothing but the server is measured. Eight clients
in this process share the machine with the server. Throughput is the median over rounds of ratios in the same
round. The time added at one client is the median over rounds of differences between the p50 of some requests
in a row and that of some calls of a bare session.

A client's own work is none of the server's, but it shares the cores and the clock. So both are told twice.
"The server alone" is asked over a plain socket with bytes that were made beforehand, of HTTP and of gRPC
(`spoken_grpc.py`), and its answer is read but not parsed: all that its own library and code take is counted,
nothing of a client's. Its time added is that beyond a bare socket in a process of its own, which takes and
gives the same bytes and runs the same engine (two copies through the kernel, two processes woken: no server
can do without). A bare server of grpcio, asked over the same plain socket and knowing nothing but the number
of bytes, tells what of gRPC's is that library's. "grpcio's client" sends the same message through that
library and leaves the answer unparsed; its line less the server's is what it takes itself. The lines of
`tritonclient` hold the whole work of its libraries; as to throughput they must reach what is asked too.
The lines of clients and of the bare servers are beyond a bare session, the socket's time included.
The CPU time is that of the server's process a request of the light engine, less that of a bare session's
call here; other work on the machine raises it. Memory is compared after as many requests of the same kind as
are counted.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from callers import LIBRARIES, SPOKEN, Bare, LibraryGRPC, triton
from made_engines import SIZE, Call, cpu_ms, heavy, write_bundle

from deploy.sessions import open_session

CLIENTS, ROUNDS, STARTS = 8, 5, 5
SECONDS = 6.0
BLOCKS, BLOCK = 8, 40
LIGHT, SOAK = 4000, 20_000
CLIENT = "grpcio's client"
BARE = {"HTTP": "a bare socket", "gRPC": "a bare server of grpcio"}


class Server:
    """The server in a process of its own; `ready` is the seconds from its start until it said so."""

    def __init__(self, *bundles: Path) -> None:
        start = time.perf_counter()
        command = [sys.executable, "-m", "deploy", "serve", *map(str, bundles), "--log", "warning"]
        self._process = subprocess.Popen(
            [*command, "--port", "0", "--grpc-port", "0"], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        found = re.findall(r"://([\d.]+:\d+)", self._process.stdout.readline())
        self.ready = time.perf_counter() - start
        self.addresses = dict(zip(LIBRARIES, found, strict=True))

    def cpu_seconds(self) -> float:
        """Of all its threads."""
        tasks = Path(f"/proc/{self._process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def megabytes(self) -> float:
        """Resident memory."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(60)


class Loop:
    """Callers that ask again when they have their answer; each makes its call in its own thread."""

    def __init__(self, make: list[Callable[[], Call]], *, seconds: float = 1e9, times: int = 10**9) -> None:
        self._ends, self._left, self._lock = 0.0, times, threading.Lock()
        self._seconds, self.latencies = seconds, list[float]()
        self._begin = threading.Barrier(len(make) + 1)
        threads = [threading.Thread(target=self._ask, args=(one,), daemon=True) for one in make]
        for thread in threads:
            thread.start()
        self._begin.wait(60)
        start = time.perf_counter()
        for thread in threads:
            thread.join()
        self.rate = len(self.latencies) / (time.perf_counter() - start)

    def _ask(self, make: Callable[[], Call]) -> None:
        call = make()
        for _ in range(3):
            call()
        self._begin.wait(60)
        ends = time.perf_counter() + self._seconds
        while (start := time.perf_counter()) < ends:
            with self._lock:
                if self._left == 0:
                    return
                self._left -= 1
            call()
            self.latencies.append(time.perf_counter() - start)


def added_ms(bare: Call, calls: dict[str, Call]) -> dict[str, float]:
    """The p50 of each call beyond that of a bare one: the median over rounds of their difference."""
    beyond: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(BLOCKS):
        alone = p50(bare)
        for name, call in calls.items():
            beyond[name].append(p50(call) - alone)
    return {name: statistics.median(seconds) * 1e3 for name, seconds in beyond.items()}


def p50(call: Call) -> float:
    """Seconds of a call in a row of them, as one client makes them."""
    taken = []
    for _ in range(BLOCK):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


class Row(NamedTuple):
    """A figure, and what was asked of it, where something was."""

    what: str
    figure: float
    unit: str
    asked: str = ""
    aim: str = ""


def throughputs(folder: Path, server: Server, images: np.ndarray) -> list[Row]:
    """Requests a second, as a share of what bare sessions do in a loop."""
    cores = len(os.sched_getaffinity(0))
    sessions = [open_session(folder, threads=1) for _ in range(cores)]
    bare: list[Callable[[], Call]] = [
        lambda one=one: lambda: one.infer(images)  # type: ignore[misc]
        for one in sessions
    ]
    askers: dict[str, Callable[[], Call]] = {}
    for kind, address in server.addresses.items():
        askers[_alone(kind)] = lambda kind=kind, at=address: SPOKEN[kind](at, "heavy", images)  # type: ignore[misc]
        askers[_tritonclient(kind)] = triton(kind, address, "heavy", images)
    at = server.addresses["gRPC"]
    askers[CLIENT] = lambda: LibraryGRPC(at, "heavy", images)
    shares: dict[str, list[float]] = {name: [] for name in askers}
    for _ in range(ROUNDS):
        whole = Loop(bare, seconds=SECONDS).rate
        for name, asks in askers.items():
            shares[name].append(Loop([asks] * CLIENTS, seconds=SECONDS).rate / whole)
    asked = {"HTTP": (">= 0.92", "0.97"), "gRPC": (">= 0.90", "0.97")}
    return [
        Row(
            f"throughput, {name}",
            statistics.median(found),
            "",
            *(() if name == CLIENT else asked[name.split()[-1]]),
        )
        for name, found in shares.items()
    ]


def times_added(folder: Path, server: Server, images: np.ndarray) -> list[Row]:
    """Milliseconds of a request of one client beyond a call of a bare session."""
    bare = {kind: Bare(kind, folder, images) for kind in BARE}
    spoken = {kind: SPOKEN[kind](at, "heavy", images) for kind, at in server.addresses.items()}
    calls: dict[str, Call] = {}
    for kind, address in server.addresses.items():
        asks = triton(kind, address, "heavy", images)()
        calls |= {BARE[kind]: bare[kind], _alone(kind): spoken[kind], _tritonclient(kind): asks}
    library = LibraryGRPC(server.addresses["gRPC"], "heavy", images)
    calls[CLIENT] = library
    for call in calls.values():
        call()
    with open_session(folder, threads=1) as session:
        added = added_ms(lambda: session.infer(images), calls)
    for one in (*bare.values(), *spoken.values(), library):
        one.close()
    for kind in BARE:
        added[_alone(kind)] -= added[BARE["HTTP"]]
    asked = {_alone(kind): ("<= 1.5", "0.7") for kind in BARE}
    return [
        Row(f"p50 added at 1 client, {name}", milliseconds, "ms", *asked.get(name, ()))
        for name, milliseconds in added.items()
    ]


def _alone(kind: str) -> str:
    return f"the server alone, {kind}"


def _tritonclient(kind: str) -> str:
    return f"tritonclient {kind}"


def costs(server: Server, images: np.ndarray, own: float) -> list[Row]:
    """CPU ms of the server's process a request, beyond the `own` ms of the engine; and what memory grows."""

    def asks(kind: str, times: int) -> int:
        callers = [triton(kind, server.addresses[kind], "light", images)] * CLIENTS
        return len(Loop(callers, times=times).latencies) + 3 * CLIENTS

    rows = []
    for kind in LIBRARIES:
        asks(kind, LIGHT // 4)
        before = server.cpu_seconds()
        asked = asks(kind, LIGHT)
        beyond = (server.cpu_seconds() - before) / asked * 1e3 - own
        rows.append(Row(f"CPU a request beyond the engine's own, {kind}", beyond, "ms", "<= 1.5", "0.7"))
    held = []
    for _ in range(2):
        for kind in LIBRARIES:
            asks(kind, SOAK // 2)
        held.append(server.megabytes())
    return [*rows, Row(f"memory grown over {SOAK} requests", held[1] - held[0], "MB", "< 5", "0")]


def rows(folder: Path) -> list[Row]:
    """The whole table."""
    images = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), dtype=np.uint8)
    slow, light = heavy(folder, images), write_bundle(folder / "light", "light", 0)
    with open_session(light, threads=1) as session:
        own = cpu_ms(lambda: session.infer(images), 2000)
    starts = []
    for _ in range(STARTS):
        with Server(slow) as server:
            starts.append(server.ready)
    with Server(slow, light) as server:
        return [
            *throughputs(slow, server, images),
            *times_added(slow, server, images),
            *costs(server, images, own),
            Row("start to ready", statistics.median(starts), "s", "<= 1.5", "0.5"),
        ]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = rows(Path(folder))
    print(f"{CLIENTS} clients, uint8 {SIZE[0]}x{SIZE[1]}, load at the end {os.getloadavg()[0]:.1f}")
    print(f"{'what':<46} {'found':>9}    {'asked':>9} {'aim':>6}")
    for what, figure, unit, asked, aim in found:
        print(f"{what:<46} {figure:>9.2f} {unit:<2} {asked:>9} {aim:>6}")


if __name__ == "__main__":
    main()
