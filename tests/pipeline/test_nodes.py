"""Groups of processes as they are started: two nodes that meet, and one whose process is killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from living import alive
from trainer import children, output, wait_for

STAGE = ("pipeline.distill", "tiny", "afdcd", "0")
WEIGHTS = "models/trained/tiny_afdcd_0/weights.safetensors"
SCHEDULE = tiny.SCHEDULE | {"iterations": 60, "validate_every": 30}

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("nodes")]


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.launch", *STAGE],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A project with a trained teacher, to be copied, and its params."""
    from pipeline import adapt, train_teacher

    folder = tmp_path_factory.mktemp("taught")
    params = tiny.write_project(folder, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train_teacher.main([])
        adapt.main(["afdcd"])
    params["train"]["schedule"] = SCHEDULE
    yield folder, params


@pytest.fixture(scope="module")
def unbroken(params: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights that one node with two processes ends with."""
    folder = copied(params, tmp_path_factory.mktemp("one") / "node", processes=2)
    process = start(folder)
    told = output(process)
    assert process.returncode == 0, told
    return (folder / WEIGHTS).read_bytes()


def copied(params: tuple[Path, dict[str, Any]], folder: Path, **runtime: object) -> Path:
    source, values = params
    shutil.copytree(source, folder)
    tiny.write_params(folder, values | {"runtime": values["runtime"] | runtime})
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_two_nodes_without_a_shared_disk_end_as_one_does(
    params: tuple[Path, dict[str, Any]], unbroken: bytes, tmp_path: Path
) -> None:
    runtime = {"nodes": 2, "rendezvous": f"127.0.0.1:{free_port()}", "processes": 1}
    folders = [copied(params, tmp_path / name, **runtime) for name in ("first", "second")]
    nodes = [start(folder) for folder in folders]
    try:
        for node in nodes:
            told = output(node)
            assert node.returncode == 0, told
    finally:
        for node in nodes:
            node.kill()
            node.wait()
    for folder in folders:
        assert (folder / WEIGHTS).read_bytes() == unbroken
        assert '"world_size": 2' in (folder / WEIGHTS).with_name("model.json").read_text()


def test_after_the_kill_of_one_process_all_go_on_from_the_last_checkpoint(
    params: tuple[Path, dict[str, Any]], unbroken: bytes, tmp_path: Path
) -> None:
    folder = copied(params, tmp_path / "node", processes=2)
    process = start(folder)
    wait_for(lambda: any(folder.glob(".runs/*/last.safetensors")) or process.poll() is not None)
    group = trainers(process.pid)
    assert len(group) == 2
    os.kill(group[1], signal.SIGKILL)
    told = output(process)
    assert process.returncode == 0 and "going on from iteration" in told, told
    assert (folder / WEIGHTS).read_bytes() == unbroken
    assert not any(map(alive, group)) and not any((folder / ".runs").iterdir())


def trainers(launcher: int) -> list[int]:
    """The processes that train, by rank."""
    found = {}
    for pid in children(launcher):
        if b"pipeline.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            (rank,) = [value for value in environment if value.startswith(b"RANK=")]
            found[rank] = pid
    return [found[rank] for rank in sorted(found)]
