"""A stopped prepare goes on: killed, after faults, and with files that changed meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from afdcd.data import prepare as module
from afdcd.data.journal import Journal
from afdcd.data.prepare import Keep, prepare
from afdcd.data.sources.folder import Folder
from afdcd.errors import UserError

COUNTS = {"train": 30, "val": 5, "test": 5}


def write(root: Path) -> Folder:
    rng = np.random.default_rng(3)
    for split, count in COUNTS.items():
        for number in range(count):
            for part, pixels in (
                ("images", rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)),
                ("masks", rng.integers(0, 2, (4, 6), dtype=np.uint8)),
            ):
                path = root / part / split / f"{number:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return opened(root)


def opened(root: Path, classes: tuple[str, ...] = ("a", "b")) -> Folder:
    return Folder(root, seed=0, classes=classes, ignored=())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "mine")
    return tmp_path / "mine"


@pytest.fixture
def run(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, bytes]]:
    """Prepare with a journal; gives how many samples were opened, and the manifest's bytes."""

    def call(source: Folder | None = None, code: str = "1") -> tuple[int, bytes]:
        seen: list[object] = []
        check = module.check
        with monkeypatch.context() as patch:
            patch.setattr(module, "check", lambda *given: seen.append(given) or check(*given))
            try:
                prepare(
                    source or opened(root),
                    root=root,
                    folder=tmp_path / "prepared",
                    progress=lambda *told: None,
                    keep=Keep(tmp_path / "journal.sqlite", code),
                )
            except UserError:
                return len(seen), b""
        return len(seen), (tmp_path / "prepared/manifest.jsonl").read_bytes()

    return call


def test_after_faults_only_what_was_mended_is_opened(
    tmp_path: Path, root: Path, run: Callable[..., tuple[int, bytes]]
) -> None:
    whole = run()
    assert whole[0] == 40 and not list(tmp_path.glob("journal*")), "done: nothing is kept"
    spoilt = root / "masks/train/007.png"
    good = spoilt.read_bytes()
    spoilt.write_bytes(b"")
    assert run() == (40, b"")
    assert run() == (1, b"")
    spoilt.write_bytes(good)
    assert run() == (1, whole[1])


def test_a_changed_file_is_opened_again_and_a_new_one_too(
    root: Path, run: Callable[..., tuple[int, bytes]]
) -> None:
    (root / "masks/test/004.png").write_bytes(b"")
    run()
    changed = root / "images/train/003.png"
    Image.fromarray(np.zeros((4, 6, 3), dtype=np.uint8)).save(changed)
    for part, shape in (("images", (4, 6, 3)), ("masks", (4, 6))):
        Image.fromarray(np.ones(shape, dtype=np.uint8)).save(root / part / "test/004.png")
        Image.fromarray(np.ones(shape, dtype=np.uint8)).save(root / part / "train/0031.png")
    opened_again, rows = run()
    assert opened_again == 3
    assert run() == (41, rows), "and the result is that of a run from the start"


def test_other_classes_or_other_code_begin_anew(root: Path, run: Callable[..., tuple[int, bytes]]) -> None:
    (root / "masks/test/004.png").write_bytes(b"")
    assert run()[0] == 40
    assert run(opened(root, ("a", "b", "c")))[0] == 40
    assert run(opened(root, ("a", "b", "c")), code="2")[0] == 40
    assert run(opened(root, ("a", "b", "c")), code="2")[0] == 1


def test_a_file_that_is_no_journal_is_replaced(tmp_path: Path, run: Callable[..., tuple[int, bytes]]) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"no data base" * 100)
    assert run()[0] == 40


def test_a_journal_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*journal\.sqlite: unable to open .*; free"):
        Journal(tmp_path / "journal.sqlite", "key")


KILLED = """
import sys, time
from pathlib import Path
from test_journal import opened
from afdcd.data import journal, prepare as module
journal.COMMIT_SECONDS = 0.0
check = module.check

def slow(*given):
    time.sleep(0.05)
    return check(*given)

module.check = slow
folder = Path(sys.argv[1])
module.prepare(
    opened(folder / "mine"), root=folder / "mine", folder=folder / "prepared",
    progress=lambda *told: print(*told, flush=True), keep=module.Keep(folder / "journal.sqlite", "1"),
)
"""


def test_after_a_kill_it_goes_on_and_gives_the_same(
    run: Callable[..., tuple[int, bytes]], kill_after: Callable[[str, int, str], None]
) -> None:
    whole = run()
    kill_after(KILLED, 12, "checking 40 1")
    time.sleep(0.1)
    opened_again, rows = run()
    assert 1 <= opened_again <= 40 - 10 and rows == whole[1]


def test_memory_does_not_hold_all_samples(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WINDOW", 2)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0, 1})
    alive, most = set(), [0]
    check = module.check

    def counted(source, sample, base):
        alive.add(sample.image)
        most[0] = max(most[0], len(alive))
        return check(source, sample, base)

    def told(what: str, total: int, done: int) -> None:
        alive.pop()

    monkeypatch.setattr(module, "check", counted)
    prepare(opened(root), root=root, folder=tmp_path / "prepared", progress=told)
    assert 1 <= most[0] <= 4
