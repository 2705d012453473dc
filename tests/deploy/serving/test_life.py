"""A server from its start to its end: new versions, signals, kills, tokens, and what it refuses to serve."""

from __future__ import annotations

import http.client
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from fake_run import SIZE, write_engine
from serving_load import INFER, load, request, right
from serving_process import Server
from slow_engine import write_slow_engine
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.xdist_group("serving")


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
