from __future__ import annotations

import signal
from typing import Any

import pytest
import tiny
from living import alive
from trainer import (
    LONG,
    StoppedError,
    checkpoints,
    children,
    curve,
    folder,
    output,
    start,
    stop,
    wait_for,
    weights,
    write,
)

from afdcd.errors import UserError
from afdcd.training.checkpoint import RunFolder
from pipeline import distill, paths, train_student


def test_killed_in_the_middle_it_goes_on_bit_for_bit_with_other_workers(taught: dict[str, Any]) -> None:
    taught["train"]["schedule"] = tiny.SCHEDULE | LONG
    write(taught)
    distill.main(["tiny", "afdcd", "0"])
    expected, model = weights("tiny_afdcd_0"), paths.trained("tiny_afdcd_0")
    model.rename("unbroken")

    process = start("pipeline.distill", "tiny", "afdcd", "0")
    wait_for(lambda: checkpoints() or process.poll() is not None)
    process.kill()
    assert process.wait() == -signal.SIGKILL and not model.exists()
    taught["runtime"]["workers"] = 2
    write(taught)
    again = start("pipeline.distill", "tiny", "afdcd", "0")
    told = output(again)
    assert again.returncode == 0 and "going on from iteration" in told, told
    assert weights("tiny_afdcd_0") == expected
    assert [int(row["iteration"]) for row in curve("tiny_afdcd_0")] == list(range(1, 61))
    assert not checkpoints()


def test_sigterm_saves_at_once_and_the_next_run_goes_on(params: dict[str, Any]) -> None:
    params["train"]["schedule"] = tiny.SCHEDULE | {"iterations": 2000, "validate_every": 2000}
    params["train"]["practice"] = tiny.PRACTICE | {"checkpoint_every": 2000}
    write(params)
    saved = stopped(until="tiny_alone_0 ")
    assert stopped(until=f"going on from iteration {saved} ") > saved


def stopped(until: str) -> int:
    """Train until a line is printed, then send SIGTERM; returns the iteration that was saved."""
    process = start("pipeline.train_student", "tiny", "0")
    assert process.stdout is not None
    printed = [process.stdout.readline()]
    while until not in printed[-1]:
        assert printed[-1], printed
        printed.append(process.stdout.readline())
    process.terminate()
    told = output(process)
    assert process.returncode == 1 and "Traceback" not in told, told
    kept = folder().load()
    assert kept is not None
    assert f"error: stopped as asked after iteration {kept.facts['iteration']} of 2000" in told
    return int(kept.facts["iteration"])


def test_killing_the_launcher_ends_its_trainers(params: dict[str, Any]) -> None:
    params["train"]["schedule"] = tiny.SCHEDULE | {"iterations": 5000, "validate_every": 5000}
    params["runtime"]["processes"] = 2
    write(params)
    process = start("pipeline.train_student", "tiny", "0")
    wait_for(lambda: checkpoints() or process.poll() is not None)
    trainers = children(process.pid)
    assert len(trainers) >= 2
    process.kill()
    process.wait()
    wait_for(lambda: not any(alive(pid) for pid in trainers))


def test_a_truncated_checkpoint_is_one_sentence(params: dict[str, Any]) -> None:
    run = distill_free_folder(params)
    run.path.mkdir(parents=True)
    run.file.write_bytes(b"\x10")
    process = start("pipeline.train_student", "tiny", "0")
    told = output(process)
    assert process.returncode == 1
    assert told.startswith("error: the checkpoint .runs/tiny_alone_0-") and "delete the folder" in told
    assert "Traceback" not in told and not paths.trained("tiny_alone_0").exists()


def distill_free_folder(params: dict[str, Any]) -> RunFolder:
    """The run folder of the control, found by stopping a run before its first iteration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.training.Training", stop)
        with pytest.raises(StoppedError) as stopped:
            train_student.main(["tiny", "0"])
    found: RunFolder = stopped.value.args[0]
    found.remove()
    return found


def test_a_run_that_another_process_holds_is_refused(
    params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afdcd.training.ownership.PATIENCE", 0.2)
    run = distill_free_folder(params)
    with run.owned(), pytest.raises(UserError, match="another process is training"):
        train_student.main(["tiny", "0"])
