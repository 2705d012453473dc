from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline import cli


def ended(capsys: pytest.CaptureFixture[str], error: BaseException) -> tuple[object, str]:
    """Exit status and stderr of a stage that raises `error`."""

    def main(_: list[str]) -> NoReturn:
        raise error

    with pytest.raises(SystemExit) as caught:
        cli.run(main)
    return caught.value.code, capsys.readouterr().err


def test_a_file_that_may_not_be_read_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "/data/photo.png")
    code, told = ended(capsys, error)
    assert code == 1 and told.startswith("error: no access to /data/photo.png: Permission denied; ")


def test_ctrl_c_is_one_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(capsys, KeyboardInterrupt()) == (130, "interrupted\n")


def test_a_stage_ends_when_its_threads_have_and_all_is_written(tmp_path: Path) -> None:
    program = """
import atexit, threading, time
from pipeline import cli

def late():
    time.sleep(0.2)
    print("thread", end=" ")

def main(given):
    atexit.register(lambda: print("end", end=""))
    threading.Thread(target=late).start()
    print("main", end=" ")

cli.run(main)
print("never")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "main thread end", "")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["quantize", "ort_cpu_fp23", "teacher"], "no target 'ort_cpu_fp23'; did you mean 'ort_cpu_fp32'?"),
        (["build", "ort_cpu_fp23", "teacher"], "no target 'ort_cpu_fp23'; did you mean 'ort_cpu_fp32'?"),
        (["benchmark", "ort_cpu_fp23"], "no target 'ort_cpu_fp23'; did you mean 'ort_cpu_fp32'?"),
        (["adapt", "kdd"], "no recipe 'kdd'; did you mean 'kd'?"),
    ],
)
def test_an_unknown_name_is_one_sentence(project: Path, command: list[str], told: str) -> None:
    stage = [sys.executable, "-m", f"pipeline.{command[0]}", *command[1:]]
    done = subprocess.run(stage, cwd=project, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: params.yaml has {told}\n"
