"""A server under stress: overload, deadlines, new versions, clients that misbehave, signals."""

from __future__ import annotations

import http.client
import json
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from fake_run import SIZE, write_engine
from serving_process import Server
from slow_engine import write_slow_engine
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.xdist_group("serving")
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


def replace(folder: Path, highest: int) -> None:
    """A new build in the old one's place, as a release does it."""
    write_engine(folder.with_name("next"), "painter", highest=highest)
    folder.rename(folder.with_name("last"))
    folder.with_name("next").rename(folder)
    shutil.rmtree(folder.with_name("last"))


def test_reload_and_rollback_lose_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    write_engine(folder, "painter", highest=1)
    with Server(folder, "--control", "--log", "warning", log=tmp_path / "log") as server:
        ended = threading.Event()
        counts: list[Counter[int]] = []
        clients = threading.Thread(target=lambda: counts.append(load(server, 3, ended.is_set, {200})))
        clients.start()
        body, headers = request(2)
        try:
            for number in range(1, 4):
                replace(folder, highest=1 + number % 2)
                assert server.ask("POST", "/v2/repository/models/painter/load").status == 200
                assert right(server.ask("POST", INFER, body, headers).body, 1 + number % 2)
            assert server.ask("POST", "/v2/repository/models/painter/rollback").status == 200
            got = server.ask("POST", INFER, body, headers)
            assert got.headers["x-model-version"] == "3" and right(got.body, 1)
            (folder / "class_map.onnx").write_bytes(b"damaged")
            damaged = server.ask("POST", "/v2/repository/models/painter/load")
            assert damaged.status == 400 and "SHA-256 differs" in damaged.json()["error"]
            replace(folder, highest=2)
            server.process.send_signal(signal.SIGHUP)
            ends = time.monotonic() + 20
            while not right(server.ask("POST", INFER, body, headers).body, 2):
                assert time.monotonic() < ends
        finally:
            ended.set()
            clients.join(60)
        assert counts and counts[0][200] > 20


def drain(folder: Path, times: int) -> None:
    write_slow_engine(folder / "bundle", "painter", highest=1, products=40)
    for _ in range(times):
        with Server(folder / "bundle", "--sessions", "1", log=folder / "log") as server:
            statuses: list[int] = []

            def ask(server: Server = server, statuses: list[int] = statuses) -> None:
                got = server.ask("POST", INFER, *request(1))
                statuses.append(got.status if right(got.body, 1) else 0)

            threads = [threading.Thread(target=ask) for _ in range(4)]
            for thread in threads:
                thread.start()
            ends = time.monotonic() + 20
            while b'v2_waiting{model="painter",version="1"} 3.0' not in server.ask("GET", "/metrics").body:
                assert time.monotonic() < ends
            assert server.end() == 0
            for thread in threads:
                thread.join(30)
            assert statuses == [200] * 4


def test_sigterm_finishes_what_runs(tmp_path: Path) -> None:
    drain(tmp_path, 2)


@pytest.mark.slow
def test_sigterm_twenty_times(tmp_path: Path) -> None:
    drain(tmp_path, 20)


def test_kill_and_start_again(tmp_path: Path) -> None:
    write_engine(tmp_path / "bundle", "painter", highest=1)
    body, headers = request(1)
    for number in (signal.SIGKILL, signal.SIGTERM):
        with Server(tmp_path / "bundle", log=tmp_path / "log") as server:
            assert right(server.ask("POST", INFER, body, headers).body, 1)
            server.end(number)


def test_kill_under_load_and_start_again(tmp_path: Path) -> None:
    """Clients see their connections end, never a wrong answer; the next server is right at once."""
    write_slow_engine(tmp_path / "bundle", "painter", highest=1, products=10)
    body, headers = request(1)
    with Server(tmp_path / "bundle", log=tmp_path / "log") as server:
        answered, ended = threading.Semaphore(0), []

        def client() -> None:
            try:
                while right(server.ask("POST", INFER, body, headers).body, 1):
                    answered.release()
                ended.append("wrong")
            except (OSError, http.client.HTTPException):
                ended.append("cut off")

        threads = [threading.Thread(target=client) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(8):
            assert answered.acquire(timeout=20)
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        for thread in threads:
            thread.join(30)
        assert ended == ["cut off"] * 4
    with Server(tmp_path / "bundle", log=tmp_path / "log") as server:
        assert right(server.ask("POST", INFER, body, headers).body, 1)


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


def test_a_token_guards_all_but_the_probes(tmp_path: Path) -> None:
    write_engine(tmp_path / "bundle", "painter", highest=1)
    (tmp_path / "token").write_text("secret\n")
    with Server(tmp_path / "bundle", "--token-file", tmp_path / "token", log=tmp_path / "log") as server:
        assert server.ask("GET", "/v2/health/ready").status == 200
        for given in ({}, {"Authorization": "Bearer secre"}, {"Authorization": "Bearer secrets"}):
            refused = server.ask("GET", "/v2/models/painter", headers=given)
            assert refused.status == 401 and refused.headers["www-authenticate"] == "Bearer"
        mine = {"Authorization": "Bearer secret"}
        assert server.ask("GET", "/v2/models/painter", headers=mine).status == 200
        with grpc_client.InferenceServerClient(server.grpc) as asks:
            given = grpc_client.InferInput("images", [1, *SIZE, 3], "UINT8")
            given.set_data_from_numpy(np.ones((1, *SIZE, 3), dtype=np.uint8))
            for bearer in (None, {"authorization": "Bearer secre"}):
                with pytest.raises(InferenceServerException) as told:
                    asks.infer("painter", [given], headers=bearer)
                assert told.value.status() == "StatusCode.UNAUTHENTICATED"
            got = asks.infer("painter", [given], headers={"authorization": "Bearer secret"})
            assert (got.as_numpy("class_map") == 1).all()
        denied = server.ask("POST", "/v2/repository/models/painter/load", headers=mine)
        assert denied.status == 403 and "--control" in denied.json()["error"]


def test_a_damaged_bundle_is_not_served(tmp_path: Path) -> None:
    write_engine(tmp_path / "bundle", "painter", highest=1)
    (tmp_path / "bundle/class_map.onnx").write_bytes(b"damaged")
    command = [sys.executable, "-m", "deploy", "serve", str(tmp_path / "bundle"), "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "SHA-256 differs" in ended.stderr and "Traceback" not in ended.stderr


def test_the_server_maps_no_torch(server: Server) -> None:
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "onnxruntime" in maps and "torch" not in maps


def test_the_server_needs_neither_torch_nor_training_code() -> None:
    code = (
        "import sys; sys.argv = ['x']\n"
        "from deploy.serving import http, server, rpc, logs, models\n"
        "bad = [name for name in sys.modules if name.split('.')[0] in ('torch', 'onnx', 'pipeline')"
        " or name.startswith(('afdcd.models', 'afdcd.training', 'afdcd.losses'))]\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


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
