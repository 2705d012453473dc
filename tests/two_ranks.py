"""A function of a test file on two real processes, connected by gloo as torchrun would.

One Python starts and forks, so that torch is imported once: `run(__file__, "function", folder)` calls
`function(world, folder)` in both.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent


def run(file: str, function: str, folder: Path) -> None:
    """Call it on both ranks and wait; a failure of either fails the test."""
    done = subprocess.run(
        [sys.executable, __file__, file, function, str(folder)],
        env=os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr


def load(file: str, function: str) -> Callable[..., Any]:
    spec = spec_from_file_location("ranked", file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[..., Any] = getattr(module, function)
    return found


def become(rank: int, port: int, work: Callable[..., Any], folder: Path) -> None:
    """Be one of the ranks, to the end of this process."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from afdcd.training.distributed import join

    code = 1
    try:
        with join("cpu") as world:
            work(world, folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    work, folder, port = load(*sys.argv[1:3]), Path(sys.argv[3]), free_port()
    processes = []
    for rank in range(2):
        if (pid := os.fork()) == 0:
            become(rank, port, work, folder)
        processes.append(pid)
    raise SystemExit(any([os.waitpid(pid, 0)[1] for pid in processes]))
