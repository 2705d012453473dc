from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from afdcd.errors import UserError
from afdcd.files import atomic_file, atomic_folder, disk_errors, write_text

KILLED = """
import os, signal, sys
from pathlib import Path
from afdcd.files import atomic_folder

replace, moves = os.replace, int(sys.argv[2])

def dying(source, destination):
    global moves
    if not moves:
        os.kill(os.getpid(), signal.SIGKILL)
    moves -= 1
    replace(source, destination)

os.replace = dying
with atomic_folder(Path(sys.argv[1])) as folder:
    (folder / "new").write_text("half")
"""
"""Write a folder, and die at the given rename."""


def kill_at_rename(path: Path, number: int) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(number)])
    assert done.returncode == -signal.SIGKILL


def refusal(code: int, filename: Path | None) -> OSError:
    return OSError(code, os.strerror(code), *([] if filename is None else [str(filename)]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with atomic_folder(tmp_path / "made") as temporary:
        (temporary / "old").write_text("kept")
    return tmp_path / "made"


def test_a_folder_takes_the_place_of_the_last_one(folder: Path) -> None:
    with atomic_folder(folder) as temporary:
        (temporary / "new").write_text("")
        assert os.listdir(folder) == ["old"]
    assert os.listdir(folder) == ["new"] and os.listdir(folder.parent) == ["made"]


def test_an_error_keeps_the_last_folder(folder: Path) -> None:
    with pytest.raises(ValueError), atomic_folder(folder) as temporary:
        (temporary / "new").write_text("")
        raise ValueError
    assert os.listdir(folder) == ["old"] and os.listdir(folder.parent) == ["made"]


def test_a_folder_moved_aside_by_a_killed_process_comes_back(folder: Path) -> None:
    kill_at_rename(folder, 1)
    assert not folder.exists() and len(os.listdir(folder.parent)) == 2
    with pytest.raises(ValueError), atomic_folder(folder):
        raise ValueError
    assert os.listdir(folder) == ["old"] and os.listdir(folder.parent) == ["made"]


def test_what_a_killed_process_left_is_cleared(folder: Path) -> None:
    kill_at_rename(folder, 0)
    assert os.listdir(folder) == ["old"] and len(os.listdir(folder.parent)) == 2
    with atomic_folder(folder) as temporary:
        (temporary / "new").write_text("")
    assert os.listdir(folder) == ["new"] and os.listdir(folder.parent) == ["made"]


def test_what_others_write_is_left_alone(folder: Path) -> None:
    """A living process's folder, a folder with a longer name, and a file that only looks alike."""
    alike = {f".made.{os.getpid()}.abc.tmp", ".made.more.99999999.abc.tmp", ".made.old"}
    for name in alike:
        (folder.parent / name).mkdir()
    with atomic_folder(folder):
        pass
    assert set(os.listdir(folder.parent)) == {"made", *alike}


def test_a_full_disk_keeps_the_last_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "file", "kept")

    def full(_: int) -> None:
        raise refusal(errno.ENOSPC, None)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=f"the disk is full while writing {tmp_path / 'file'}; "):
        write_text(tmp_path / "file", "new")
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "kept"


def test_a_file_below_a_new_folder_is_named_as_it_will_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise refusal(errno.ENOSPC, None)

    monkeypatch.setattr(os, "fsync", full)
    expected = f"while writing {tmp_path / 'made' / 'part'}; "
    with pytest.raises(UserError, match=expected), atomic_folder(tmp_path / "made") as folder:
        write_text(folder / "part", "")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", [None, ".file.7.tmp", ".folder.7.abc.tmp/part", "file", "."])
@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_what_may_not_be_written_is_named(tmp_path: Path, name: str | None, code: int) -> None:
    path = tmp_path / "file"
    with pytest.raises(UserError) as caught, disk_errors(path):
        raise refusal(code, None if name is None else tmp_path / name)
    expected = f"cannot write {path}: {os.strerror(code)}; check the folder's permissions"
    assert str(caught.value) == expected


def test_another_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    secret = tmp_path / "weights.safetensors"
    with pytest.raises(UserError) as caught, atomic_file(tmp_path / "copy"):
        raise refusal(errno.EACCES, secret)
    assert str(caught.value).startswith(f"no access to {secret}: Permission denied; ")


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk_errors(tmp_path):
        raise FileNotFoundError
