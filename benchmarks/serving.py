"""What the server adds to an engine, against what was asked of it, in one table; about three minutes.

python benchmarks/serving.py

Two engines of uint8 256x512 are made for it: one of about 20 ms of one core (matrix products), and one that
only cuts the first third out of its input, so that next to nothing but the server is measured. Eight
`tritonclient` clients in this process share the machine with the server. Throughput is the median over rounds
of ratios in the same round. The time added at one client is the median over rounds of differences between the
p50 of some requests in a row and that of some calls of a bare session. Three lines tell where it goes: a bare
socket in a process of its own, which takes and gives the same bytes and runs the same engine (two copies
through the kernel, two processes woken: no server can do without); the server alone, asked over HTTP with
bytes that were made beforehand, beyond that socket; and the whole of it with each of `tritonclient`'s
libraries, whose own work it holds. The CPU time is that of the server's process a request of the light
engine, less that of a bare session's call here; other work on the machine raises it. Memory is compared
after as many requests of the same kind as are counted.
"""

from __future__ import annotations

import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from made_engines import SIZE, Call, cpu_ms, heavy, write_bundle

from deploy.sessions import open_session

CLIENTS, ROUNDS, STARTS = 8, 3, 5
SECONDS = 6.0
BLOCKS, BLOCK = 20, 15
LIGHT, SOAK = 4000, 20_000
PLAIN = "--plain"
LIBRARIES = {"HTTP": http_client, "gRPC": grpc_client}
SOCKET, ALONE = "a bare socket", "the server alone"
ANSWERED = re.compile(rb"HTTP/1.1 200 .*?\r\ncontent-length: (\d+)\r\n.*?\r\n\r\n", re.IGNORECASE | re.DOTALL)


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


def client(kind: str, server: Server, model: str, images: np.ndarray) -> Callable[[], Call]:
    """Makes a caller of the server."""
    library = LIBRARIES[kind]

    def make() -> Call:
        asks = library.InferenceServerClient(server.addresses[kind])
        given = library.InferInput("images", list(images.shape), "UINT8")
        given.set_data_from_numpy(images)
        return lambda: asks.infer(model, [given])

    return make


class Plain:
    """The same engine behind a socket that knows nothing but the number of bytes."""

    def __init__(self, bundle: Path, images: np.ndarray) -> None:
        self._images, self._map = images, memoryview(bytearray(SIZE[0] * SIZE[1]))
        command = [sys.executable, __file__, PLAIN, str(bundle)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._socket = socket.create_connection(("127.0.0.1", int(self._process.stdout.readline())))

    def __call__(self) -> None:
        self._socket.sendall(self._images.data)
        fill(self._socket, self._map)

    def close(self) -> None:
        """The process ends with the connection."""
        self._socket.close()
        self._process.wait(60)


class Spoken:
    """A request over HTTP whose bytes were made beforehand; of the answer only the length is read."""

    def __init__(self, address: str, model: str, images: np.ndarray) -> None:
        host, port = address.split(":")
        tensor = {"name": "images", "datatype": "UINT8", "shape": list(images.shape)}
        asked = {
            "inputs": [tensor | {"parameters": {"binary_data_size": images.nbytes}}],
            "outputs": [{"name": "class_map", "parameters": {"binary_data": True}}],
        }
        header = json.dumps(asked).encode()
        self._start = (
            f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: {host}\r\n"
            f"Content-Length: {len(header) + images.nbytes}\r\n"
            f"Inference-Header-Content-Length: {len(header)}\r\n\r\n"
        ).encode() + header
        self._images, self._answer = images, memoryview(bytearray(1 << 20))
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __call__(self) -> None:
        self._socket.sendall(self._start)
        self._socket.sendall(self._images.data)
        head, got = None, 0
        while head is None:
            some = self._socket.recv_into(self._answer[got:])
            if not some:
                raise ConnectionError("the server went away")
            got += some
            head = re.match(ANSWERED, self._answer[:got])
        whole = head.end() + int(head[1])
        if not fill(self._socket, self._answer[got:whole]):
            raise ConnectionError("the server went away")

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def fill(line: socket.socket, into: memoryview) -> bool:
    """Read so many bytes; False where the other end is gone."""
    got = 0
    while got < len(into):
        some = line.recv_into(into[got:])
        if not some:
            return False
        got += some
    return True


def answer_plainly(bundle: Path) -> None:
    """The process of `Plain`."""
    with socket.create_server(("127.0.0.1", 0)) as listening, open_session(bundle, threads=1) as session:
        print(listening.getsockname()[1], flush=True)
        line, _ = listening.accept()
        images = np.empty((1, *SIZE, 3), np.uint8)
        while fill(line, memoryview(images).cast("B")):
            line.sendall(session.infer(images).data)


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


def rows(folder: Path) -> list[tuple[str, float, str, str, str]]:
    """What, figure, unit, at least, aim."""
    images = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), dtype=np.uint8)
    slow, light = heavy(folder, images), write_bundle(folder / "light", "light", 0)
    cores = len(os.sched_getaffinity(0))
    sessions = [open_session(slow, threads=1) for _ in range(cores)]
    bare: list[Callable[[], Call]] = [
        lambda one=one: lambda: one.infer(images)  # type: ignore[misc]
        for one in sessions
    ]
    with open_session(light, threads=1) as session:
        own = cpu_ms(lambda: session.infer(images), 2000)
    starts = []
    for _ in range(STARTS):
        with Server(slow) as server:
            starts.append(server.ready)
    shares: dict[str, list[float]] = {kind: [] for kind in LIBRARIES}
    beyond: dict[str, float] = {}
    with Server(slow, light) as server:
        for _ in range(ROUNDS):
            whole = Loop(bare, seconds=SECONDS).rate
            for kind in LIBRARIES:
                asks = client(kind, server, "heavy", images)
                shares[kind].append(Loop([asks] * CLIENTS, seconds=SECONDS).rate / whole)
        plain, spoken = Plain(slow, images), Spoken(server.addresses["HTTP"], "heavy", images)
        asking = {f"tritonclient {kind}": client(kind, server, "heavy", images)() for kind in LIBRARIES}
        added = added_ms(bare[0](), {SOCKET: plain, ALONE: spoken, **asking})
        added[ALONE] -= added[SOCKET]
        plain.close()
        spoken.close()
        for kind in LIBRARIES:
            asks = [client(kind, server, "light", images)] * CLIENTS
            Loop(asks, times=LIGHT // 4)
            before = server.cpu_seconds()
            loop = Loop(asks, times=LIGHT)
            warm_up = 3 * CLIENTS
            beyond[kind] = (server.cpu_seconds() - before) / (len(loop.latencies) + warm_up) * 1e3 - own
        held = []
        for _ in range(2):
            for kind in LIBRARIES:
                Loop([client(kind, server, "light", images)] * CLIENTS, times=SOAK // 2)
            held.append(server.megabytes())
        grown = held[1] - held[0]
    told = [
        (f"throughput against bare sessions, {kind}", statistics.median(shares[kind]), "", least, "0.97")
        for kind, least in (("HTTP", "0.92"), ("gRPC", "0.90"))
    ]
    for name, milliseconds in added.items():
        asked = ("<= 1.5", "0.7") if name == ALONE else ("", "")
        told.append((f"p50 added at 1 client, {name}", milliseconds, "ms", *asked))
    told += [
        (f"CPU a request beyond the engine's own, {kind}", beyond[kind], "ms", "<= 1.5", "0.7")
        for kind in LIBRARIES
    ]
    told.append(("start to ready", statistics.median(starts), "s", "<= 1.5", "0.5"))
    told.append((f"memory grown over {SOAK} requests", grown, "MB", "< 5", "0"))
    return told


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = rows(Path(folder))
    print(f"{CLIENTS} clients, uint8 {SIZE[0]}x{SIZE[1]}, load at the end {os.getloadavg()[0]:.1f}")
    print(f"{'what':<46} {'found':>9}    {'at least':>9} {'aim':>6}")
    for what, figure, unit, least, aim in found:
        print(f"{what:<46} {figure:>9.2f} {unit:<2} {least:>9} {aim:>6}")


if __name__ == "__main__":
    if sys.argv[1:2] == [PLAIN]:
        answer_plainly(Path(sys.argv[2]))
    else:
        main()
