"""What the server adds to an engine: CPU a request and throughput, HTTP and gRPC, against bare sessions.

    PYTHONPATH=. python benchmarks/serving.py BUNDLE

The bundle needs a fixed input size. Eight clients share the machine with the server, so the CPU time of the
server's process a request, less that of a bare session's call, is the figure that other work disturbs least.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client

from deploy.bundle import read_manifest
from deploy.sessions import open_session

CLIENTS, SECONDS = 8, 8.0
TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def loop(calls: list[Callable[[], object]]) -> float:
    """Answers a second of callers that ask again when they have theirs."""
    counts, ends = [0] * len(calls), time.perf_counter() + SECONDS

    def ask(number: int) -> None:
        while time.perf_counter() < ends:
            calls[number]()
            counts[number] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(calls))]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def caller(kind: str, address: str, model: str, name: str, images: np.ndarray) -> Callable[[], object]:
    library = http_client if kind == "http" else grpc_client
    asks = library.InferenceServerClient(address)
    given = library.InferInput(name, list(images.shape), "UINT8")
    given.set_data_from_numpy(images)
    return lambda: asks.infer(model, [given])


def main(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    size = manifest.contract.geometry.size
    images = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    cores = len(os.sched_getaffinity(0))
    sessions = [open_session(bundle, threads=1) for _ in range(cores)]
    calls = [lambda one=one: one.infer(images) for one in sessions]
    before = time.process_time()
    bare = loop(calls)
    engine = (time.process_time() - before) / (bare * SECONDS)
    print(f"bare: {bare:.1f}/s, {engine * 1e3:.2f} ms CPU an image, {size}, {cores} cores")
    command = [sys.executable, "-m", "deploy", "serve", str(bundle), "--port", "0", "--grpc-port", "0"]
    server = subprocess.Popen([*command, "--log", "warning"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        ports = re.findall(r"://([\d.]+:\d+)", server.stdout.readline())
        for kind, address in zip(("http", "grpc"), ports, strict=True):
            clients = [
                caller(kind, address, manifest.model, manifest.contract.input.name, images)
                for _ in range(CLIENTS)
            ]
            before = cpu_seconds(server.pid)
            rate = loop(clients)
            used = (cpu_seconds(server.pid) - before) / (rate * SECONDS)
            print(f"{kind}: {rate:.1f}/s, {rate / bare:.2f} of bare, +{(used - engine) * 1e3:.2f} ms CPU")
    finally:
        server.terminate()
        server.wait(30)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
