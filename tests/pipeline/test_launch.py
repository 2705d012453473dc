from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from afdcd.config import RuntimeConfig
from afdcd.errors import UserError
from pipeline import launch


@pytest.fixture
def gpus(tmp_path: Path) -> Path:
    for name in ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
    return tmp_path / "gpus"


def runtime(**changes: object) -> RuntimeConfig:
    values = {
        "device": "auto",
        "processes": "auto",
        "nodes": 1,
        "rendezvous": None,
        "restarts": 3,
        "contrast": "auto",
    }
    speed = {"workers": 0, "threads": "auto", "cache_gb": 0, "contrast": "auto"}
    return RuntimeConfig.model_validate(values | speed | changes)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, 3), ("", 0), ("-1", 0), ("0,2", 2), ("1,-1,2", 1), ("GPU-a", 1), ("0,1,2,3", 3)],
)
def test_gpus_are_counted_as_cuda_shows_them(gpus: Path, visible: str | None, expected: int) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert launch.count_gpus(environment, gpus) == expected


def test_no_driver_no_gpus(tmp_path: Path) -> None:
    assert launch.count_gpus({"CUDA_VISIBLE_DEVICES": "0,1"}, tmp_path / "none") == 0


def test_processes() -> None:
    assert launch.count_processes(runtime(), 0) == 1
    assert launch.count_processes(runtime(), 4) == 4
    assert launch.count_processes(runtime(device="cpu"), 4) == 1
    assert launch.count_processes(runtime(device="cpu", processes=2), 0) == 2


def test_threads_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.os, "sched_getaffinity", lambda pid: set(range(8)))
    assert [launch.count_threads(runtime(), n) for n in (1, 3, 16)] == [8, 2, 1]
    assert launch.count_threads(runtime(threads=5), 2) == 5


@pytest.mark.parametrize("given", [[], ["pipeline.nothing"], ["nothing.at.all", "1"]])
def test_an_unknown_stage_is_refused(given: list[str]) -> None:
    with pytest.raises(UserError, match="usage"):
        launch.main(given)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"nodes": 2, "rendezvous": "node1:29400"}, None),
        ({"nodes": 2}, "runtime.nodes: 2 need a place to meet; set runtime.rendezvous"),
        ({"rendezvous": "node1:29400"}, "runtime.rendezvous: node1:29400 is of no use to one node"),
        ({"nodes": 2, "rendezvous": "node1:70000"}, "no such port"),
    ],
)
def test_nodes_that_cannot_meet(changes: dict[str, object], said: str | None) -> None:
    told = list(launch.node_mistakes(runtime(**changes)))
    assert not told if said is None else said in told[0] and len(told) == 1


def test_a_parent_that_died_before_ends_the_launcher() -> None:
    for given in (["--parent=1", "pipeline.train_teacher"], ["--parent=4194305", "pipeline.train_teacher"]):
        with pytest.raises(SystemExit) as ended:
            launch.main(given)
        assert ended.value.code == 143


def test_a_process_ends_with_its_parent(tmp_path: Path) -> None:
    """The parent is killed without a chance to clean up; the request outlives exec."""
    child = (
        "import os, sys; from pipeline.parent import end_with_parent; end_with_parent();"
        "os.execv('/bin/sleep', ['sleep', '60'])"
    )
    parent = (
        "import subprocess, sys;"
        f"print(subprocess.Popen([sys.executable, '-c', {child!r}]).pid, flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    status = Path(f"/proc/{process.stdout.readline().strip()}/cmdline")
    wait_for(lambda: status.exists() and status.read_bytes().startswith(b"sleep"))
    process.kill()
    process.wait()
    wait_for(lambda: not status.exists() or not status.read_bytes())


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.01)
