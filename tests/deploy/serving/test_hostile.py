"""Clients that misbehave: slow, half closed, and with something broken in every request."""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path

import pytest
from fake_run import SIZE
from serving_load import INFER, request, right
from serving_process import Server

pytestmark = pytest.mark.xdist_group("serving")


def test_slow_and_half_closed_clients_hold_nobody_up(server: Server) -> None:
    body, headers = request(1)
    start = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with (
        socket.create_connection((server.host, server.port), 20) as slow,
        socket.create_connection((server.host, server.port), 20) as half,
    ):
        slow.sendall(start + b"{")
        half.sendall(start + b"{")
        half.shutdown(socket.SHUT_WR)
        assert right(server.ask("POST", INFER, body, headers).body, 1)
        assert b"408" in slow.recv(1000).split(b"\r\n")[0]
        while half.recv(1000):
            pass
    assert server.ask("GET", "/v2/health/ready").status == 200


def mangled(rng: random.Random) -> tuple[str, bytes, dict[str, str]]:
    """A request with something broken in it: bytes, lengths, types, nesting, encodings."""
    body, headers = request(rng.randrange(3))
    kind = rng.randrange(6)
    if kind == 0:
        headers = {"Inference-Header-Content-Length": rng.choice(["", "-1", "1e3", "9" * 30, "0", "7", "²"])}
        headers = {
            name: value.encode("latin-1", "replace").decode("latin-1") for name, value in headers.items()
        }
    elif kind == 1:
        content = bytearray(body)
        for _ in range(rng.randrange(1, 20)):
            content[rng.randrange(150)] = rng.randrange(256)
        body = bytes(content)
    elif kind == 2:
        odd = [None, True, -1, 1e400, 2**70, "x", [], {}, [[1], 2], [[[]]], "\ud800", [0] * 384]
        tensor = {"name": "images", "datatype": "UINT8", "shape": [1, *SIZE, 3], "data": [0] * 384}
        tensor[rng.choice([*tensor, "parameters"])] = rng.choice(odd)
        given = {"inputs": [tensor], "id": "a", "outputs": [{"name": "class_map"}], "parameters": {}}
        if rng.random() < 0.5:
            given[rng.choice([*given])] = rng.choice(odd)
        body, headers = json.dumps(given).encode(), {}
    elif kind == 3:
        headers["Content-Encoding"] = rng.choice(["gzip", "deflate", "br", "gzip, gzip"])
    elif kind == 4:
        body = body[: rng.randrange(len(body))] + b"[" * rng.randrange(2000)
    else:
        start = rng.choice([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"BM", b"II*\x00", b"RIFF"])
        return "/v2/models/painter/segment", start + rng.randbytes(rng.randrange(300)), {}
    return INFER, body, headers


def fuzz(server: Server, count: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(count):
        path, body, headers = mangled(rng)
        got = server.ask("POST", path, body, headers)
        assert got.status in (200, 400, 413), (path, body[:300], headers, got)
    body, headers = request(1)
    assert right(server.ask("POST", INFER, body, headers).body, 1)


def test_malformed_requests_get_answers(server: Server) -> None:
    fuzz(server, 400, seed=0)


@pytest.mark.slow
def test_ten_thousand_malformed_requests(server: Server) -> None:
    def resident() -> float:
        lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024

    fuzz(server, 1000, seed=1)
    before = resident()
    fuzz(server, 9000, seed=2)
    assert resident() < before + 10
