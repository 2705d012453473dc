"""Requests of known answers to a served engine, and closed-loop clients that check each of them."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
from fake_run import SIZE
from serving_process import Server

INFER = "/v2/models/painter/infer"


def request(value: int) -> tuple[bytes, dict[str, str]]:
    """One image whose red is `value`."""
    pixels = np.full((1, *SIZE, 3), value, dtype=np.uint8)
    size = {"binary_data_size": pixels.nbytes}
    tensor = {"name": "images", "datatype": "UINT8", "shape": pixels.shape, "parameters": size}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return header + pixels.tobytes(), {"Inference-Header-Content-Length": str(len(header))}


def right(body: bytes, value: int) -> bool:
    return body[-SIZE[0] * SIZE[1] :] == bytes([value]) * (SIZE[0] * SIZE[1])


def load(
    server: Server,
    clients: int,
    until: Callable[[], bool],
    allowed: set[int],
    times: list[tuple[float, float, float]] | None = None,
) -> Counter[int]:
    """Statuses of closed-loop clients; an accepted answer is 1 or 2 everywhere, never a mix.

    `times` takes queue, compute and whole time in ms of each accepted request.
    """
    counts: Counter[int] = Counter()
    wrong: list[str] = []

    def client() -> None:
        body, headers = request(2)
        while not until():
            start = time.perf_counter()
            try:
                got = server.ask("POST", INFER, body, headers)
            except OSError as error:
                wrong.append(repr(error))
                return
            counts[got.status] += 1
            if times is not None and got.status == 200:
                queue, compute = re.findall(r"dur=([\d.]+)", got.headers["server-timing"])
                times.append((float(queue), float(compute), (time.perf_counter() - start) * 1e3))
            if got.status not in allowed or (
                got.status == 200 and not (right(got.body, 1) or right(got.body, 2))
            ):
                wrong.append(f"{got.status} {got.body[:200]!r}")
                return

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong, wrong[:3]
    return counts
