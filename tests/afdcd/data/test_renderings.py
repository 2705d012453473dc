"""Rendering goes on after a kill with the same bytes, and never takes files of other options."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from afdcd.data.prepare import Keep, prepare
from afdcd.data.sources import streets
from afdcd.data.sources.streets import Streets
from afdcd.errors import UserError


def street(folder: Path, seed: int = 0) -> Streets:
    return Streets(folder, seed=seed, size=(32, 64), train=40, val=4, test=3, classes=9, difficulty=0.5)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Prepare streets with a Keep in this process; gives how many scenes were rendered."""
    monkeypatch.setattr(streets, "_cores", lambda: 1)
    render = streets.render

    def call(seed: int = 0, code: str = "1", stop: int | None = None, into: str = "prepared") -> int:
        seen: list[int] = []

        def counted(number: int, **options: Any) -> Any:
            if len(seen) == stop:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            seen.append(number)
            return render(number, **options)

        monkeypatch.setattr(streets, "render", counted)
        keep = Keep(tmp_path / "run/prepare.sqlite", code, f"seed {seed}")
        prepare(
            street(tmp_path, seed), root=tmp_path, folder=tmp_path / into, progress=lambda *_: None, keep=keep
        )
        assert not list((tmp_path / "run").iterdir()), "done: nothing is kept"
        return len(seen)

    return call


KILLED = """
import sys, time
from pathlib import Path
from test_renderings import street
from afdcd.data.prepare import Keep, prepare
from afdcd.data.sources import streets

streets._CHUNK = 1
streets._cores = lambda: 1
folder = Path(sys.argv[1])
prepare(
    street(folder), root=folder, folder=folder / "prepared", progress=lambda *told: print(*told, flush=True),
    keep=Keep(folder / "run/prepare.sqlite", "1", "seed 0"),
)
"""


def test_after_a_kill_it_goes_on_and_gives_the_same(
    tmp_path: Path, run: Callable[..., int], kill_after: Callable[[str, int, str], None]
) -> None:
    assert run(into="whole") == 47
    kill_after(KILLED, 12, "rendering 47 1\n")
    assert not (tmp_path / "prepared").exists()
    assert run() <= 47 - 12
    assert contents(tmp_path / "prepared") == contents(tmp_path / "whole")


def test_after_an_error_it_goes_on(tmp_path: Path, run: Callable[..., int]) -> None:
    with pytest.raises(UserError, match="disk is full"):
        run(stop=30)
    assert run() == 47 - 30


@pytest.mark.parametrize("other", [{"seed": 1}, {"code": "2"}], ids=["options", "code"])
def test_scenes_of_other_options_or_code_are_thrown_away(
    tmp_path: Path, run: Callable[..., int], other: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match="disk is full"):
        run(stop=30)
    assert run(**other) == 47


def test_scenes_of_another_numpy_are_thrown_away(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its random numbers may be others."""
    with pytest.raises(UserError, match="disk is full"):
        run(stop=30)
    monkeypatch.setattr("numpy.__version__", "1.0")
    assert run() == 47


def test_a_full_disk_while_a_scene_is_written_leaves_no_half_scene(
    tmp_path: Path, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, moved = os.replace, []

    def full(source: Path, target: Path) -> None:
        if "rendered" in str(target) and len(moved) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        moved.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(streets.os, "replace", full)
        with pytest.raises(UserError, match="the disk is full while writing"):
            run()
    assert run() == 47 - 2, "two scenes had both files; of the third only the image was there"
