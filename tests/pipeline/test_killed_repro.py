"""A training under a real `dvc repro`, killed without warning: it goes on, and no trainer is left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from clone import Clone
from living import alive

SETTINGS = (
    "schedule=smoke",
    "runtime.threads=1",
    "teacher.schedule.iterations=200",
    "teacher.schedule.validate_every=50",
    "train.practice.checkpoint_every=5",
    "teacher.model.backbone_options.channels=[8,8,16,16]",
    "teacher.model.backbone_options.stem_width=8",
    "teacher.model.head_channels=8",
)
TEACHER = "models/trained/teacher"


def make(folder: Path) -> Clone:
    clone = Clone(folder / "clone")
    clone.python("pipeline.configure", *SETTINGS)
    return clone


def wait_for(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.005)


def saved(clone: Clone) -> int:
    """When the checkpoint was written last; 0 without one."""
    return max((path.stat().st_mtime_ns for path in clone.folder.glob(".runs/*/last.safetensors")), default=0)


def trainer(parent: int) -> int:
    """The process that trains, a child of dvc."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    (pid,) = [
        pid for pid in children if b"pipeline.train_teacher" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return int(pid)


def killed(clone: Clone, who: Callable[[int, int], int]) -> str:
    """Run dvc until the trainer has saved once more, kill -9 one of the two, and return what was printed."""
    before = saved(clone)
    process = clone.start("dvc", "repro", "train_teacher")
    wait_for(lambda: saved(clone) > before or process.poll() is not None)
    assert process.poll() is None, process.communicate()[0]
    pid = trainer(process.pid)
    os.kill(who(process.pid, pid), signal.SIGKILL)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode != 0 and not (clone.folder / TEACHER).exists(), printed
    wait_for(lambda: not alive(pid))
    return printed


@pytest.mark.slow
def test_killed_in_the_middle_repro_ends_with_the_weights_of_an_unbroken_run(tmp_path: Path) -> None:
    unbroken, broken = make(tmp_path / "unbroken"), make(tmp_path / "broken")
    unbroken.repro("train_teacher")

    assert "going on from" not in killed(broken, lambda dvc, trainer: trainer)
    broken.edit("params.yaml", lambda text: text.replace("  workers: 0", "  workers: 2"))
    assert "going on from iteration" in killed(broken, lambda dvc, trainer: dvc)
    assert "going on from iteration" in broken.repro("train_teacher")

    weights = [(clone.folder / TEACHER / "weights.safetensors").read_bytes() for clone in (broken, unbroken)]
    assert weights[0] == weights[1]
    assert saved(broken) == 0 and "train_teacher" in broken.read("dvc.lock")
