"""Bad input and a full disk through the command line of training: a sentence, and nothing half-made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import save_file

from afdcd.models.segmenter import build_segmenter
from afdcd.models.store import ModelCard, save_trained
from afdcd.training.checkpoint import RunFolder
from pipeline import paths


@pytest.fixture
def params(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A tiny project as the working folder; returns its params."""
    monkeypatch.chdir(tmp_path)
    return tiny.write_project(tmp_path, root)


def launch(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.launch", *command], capture_output=True, text=True, timeout=240
    )


def made() -> set[str]:
    """Everything below models and reports, hidden files too."""
    return {str(path) for folder in ("models", "reports") for path in Path(folder).rglob("*")}


def save_teacher(folder: Path, classes: tuple[str, ...]) -> None:
    """A trained network of the settings' shape that knows `classes`."""
    config = tiny.model()
    card = ModelCard(
        model=config,
        num_classes=len(classes),
        classes=classes,
        iteration=1,
        val_miou=0.5,
        iterations=1,
        world_size=1,
        device="cpu",
        precision="fp32",
        torch_version=torch.__version__,
        seconds=1.0,
    )
    save_trained(folder, build_segmenter(config, len(classes)), card)


def refused(params: dict[str, Any], checkpoint: str) -> str:
    """What the stage says to a teacher given as `checkpoint`, which must be one sentence."""
    params["teacher"]["checkpoint"] = checkpoint
    tiny.write_params(Path(), params)
    done = launch("pipeline.train_teacher")
    assert (done.returncode, done.stdout) == (1, "") and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ") and not made() and not paths.RUNS.exists()
    return done.stderr


def test_a_truncated_teacher(params: dict[str, Any]) -> None:
    save_file(build_segmenter(tiny.model(), 3).state_dict(), "given.safetensors")
    content = Path("given.safetensors").read_bytes()
    Path("given.safetensors").write_bytes(content[: len(content) // 2])
    told = refused(params, "given.safetensors")
    assert told.startswith("error: weights file given.safetensors is truncated or damaged")


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        (("road", "sky", "car", "tree"), "has 4 classes, the data have 3; "),
        (("sky", "road", "car"), "knows the classes sky, road, car, the data have road, sky, car, in this"),
    ],
)
def test_a_teacher_of_other_classes(params: dict[str, Any], classes: tuple[str, ...], told: str) -> None:
    save_teacher(Path("given"), classes)
    assert refused(params, "given").startswith(f"error: checkpoint given {told}")


FULL_DISK = """
import errno, os

flush, room = os.fsync, 2

def full(descriptor):
    global room
    if not room:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    room -= 1
    flush(descriptor)

os.fsync = full
from pipeline import train_student
from pipeline.training import run_stage
run_stage(train_student.main)
"""
"""Train a student on a disk that has room for the mark of the lock and one checkpoint."""


def test_a_full_disk_keeps_the_last_checkpoint_and_training_goes_on_from_it(params: dict[str, Any]) -> None:
    params["runtime"]["cache_gb"] = 0.0  # decoded images would take the room first
    tiny.write_params(Path(), params)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, "tiny", "0"], capture_output=True, text=True, timeout=240
    )
    (file,) = paths.RUNS.glob("*/last.safetensors")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: the disk is full while writing {file}; free some")
    assert not made() and {path.name for path in file.parent.iterdir()} == {file.name, "lock"}
    name, _, key = file.parent.name.rpartition("-")
    kept = RunFolder(paths.RUNS, name, key).load()
    assert kept is not None

    again = launch("pipeline.train_student", "tiny", "0")
    assert again.returncode == 0, again.stderr
    assert f"going on from iteration {kept.facts['iteration']}" in again.stderr
    assert paths.trained("tiny_alone_0").exists() and not paths.RUNS.joinpath(file.parent.name).exists()
