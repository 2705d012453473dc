"""Training stages as tests drive them: started, watched, killed, and what they leave."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny

from afdcd.training.checkpoint import RunFolder
from pipeline import paths

LONG = {"iterations": 60, "validate_every": 30}


def write(params: dict[str, Any]) -> None:
    tiny.write_params(Path(), params)


def start(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.launch", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=240)[0]


def wait_for(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.005)


def weights(model: str) -> bytes:
    return (paths.trained(model) / "weights.safetensors").read_bytes()


def card(model: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((paths.trained(model) / "model.json").read_text())
    return values


def curve(model: str) -> list[dict[str, str]]:
    with paths.curve(model).open() as handle:
        return list(csv.DictReader(handle))


def checkpoints() -> list[Path]:
    return sorted(paths.RUNS.glob("*/last.safetensors"))


def folder() -> RunFolder:
    (file,) = checkpoints()
    name, _, key = file.parent.name.rpartition("-")
    return RunFolder(paths.RUNS, name, key)


def children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


class StoppedError(Exception):
    pass


def stop(*arguments: Any, folder: RunFolder, **others: Any) -> None:
    raise StoppedError(folder)
