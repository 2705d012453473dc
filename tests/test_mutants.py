"""The command that plants faults, and its tables."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from mutants.tables import TableError, planted, read_tables

from afdcd.losses import METHODS

ROOT = Path(__file__).parents[1]
SHARED = {"contrast", "generator", "queue", "discriminator", "classes", "inputs", "objective", "recipe"}

CODE = "def add(first: int, second: int) -> int:\n    return 2 * first - first + second\n"
TESTS = """import pytest

from shop.add import add


def test_sum() -> None:
    assert add(2, 3) == 5


@pytest.mark.slow
def test_that_is_left_out() -> None:
    assert add(1, 1) == 0
"""
SEEN = ("a difference", "+ second", "- second")
UNSEEN = ("an equal form", "2 * first - first", "3 * first - 2 * first")
BROKEN = ("a name that is not there", "def add", "def plus")
TABLE = """file = "shop/add.py"
tests = ["tests/test_add.py"]
"""
PYTEST = '[tool.pytest.ini_options]\nmarkers = ["slow"]\naddopts = "--import-mode=importlib"\n'


def shop(folder: Path, *faults: tuple[str, str, str]) -> Path:
    """A project of one function, whose test sees one of two faults."""
    rows = [f'[[fault]]\nmeans = "{means}"\nold = "{old}"\nnew = "{new}"\n' for means, old, new in faults]
    for name, text in (
        ("pyproject.toml", PYTEST),
        ("shop/add.py", CODE),
        ("tests/test_add.py", TESTS),
        ("tests/mutants/faults/add.toml", TABLE + "\n".join(rows)),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def mutants(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "tests/mutants", *arguments],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.returncode, done.stdout


def test_caught_survived_and_broken_faults_are_told_apart(tmp_path: Path) -> None:
    code, printed = mutants("--root", shop(tmp_path, SEEN, UNSEEN, BROKEN), "--jobs", "2")
    assert code == 1 and "3 faults in 1 tables, 2 not caught" in printed, printed
    assert re.search(f"^add  caught    {SEEN[0]} +test_sum$", printed, re.MULTILINE), printed
    assert f"NOT CAUGHT: add  SURVIVED  {UNSEEN[0]}" in printed
    assert f"NOT CAUGHT: add  broken    {BROKEN[0]}" in printed
    assert (tmp_path / "shop/add.py").read_text(encoding="utf-8") == CODE


def test_an_unknown_name_is_an_error(tmp_path: Path) -> None:
    code, printed = mutants("--root", shop(tmp_path, SEEN), "ad")
    assert (code, printed) == (1, "error: no table of faults is called 'ad'; did you mean 'add'?\n")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("third", "first", "'x': the text must stand there once, it does 0 times: third"),
        ("first", "third", "'x': the text must stand there once, it does 3 times: first"),
        ("return", "retrun", "'x': with it the file is no Python"),
        ("int:\\n", "int:\\n\\n", "'x': it changes no code"),
    ],
)
def test_a_fault_that_does_not_fit_is_an_error(tmp_path: Path, old: str, new: str, message: str) -> None:
    ((fault,),) = (table.faults for table in read_tables(shop(tmp_path, ("x", old, new)), []))
    with pytest.raises(TableError, match=f"shop/add.py, {message}"):
        planted(fault, tmp_path)


def test_the_tables_fit_the_code_and_leave_no_method_out() -> None:
    tables = read_tables(ROOT, [])
    assert {*METHODS, *SHARED} <= {table.name for table in tables}
    for table in tables:
        assert len({(fault.file, fault.old, fault.new) for fault in table.faults}) >= 5, table.name
        assert len({fault.means for fault in table.faults}) == len(table.faults), table.name
        assert all((ROOT / test).exists() for test in table.tests), table.name
        for fault in table.faults:
            planted(fault, ROOT)


@pytest.mark.slow
def test_each_fifth_fault_is_caught() -> None:
    """All of them are for `make mutants`, which takes the better part of an hour."""
    code, printed = mutants("--every", "5")
    assert code == 0, printed
    assert re.search(r"^1\d\d faults in \d+ tables, 0 not caught", printed, re.MULTILINE), printed


def test_a_part_of_a_table_is_planted(tmp_path: Path) -> None:
    code, printed = mutants("--root", shop(tmp_path, SEEN, UNSEEN, SEEN), "--every", "2")
    assert code == 0 and "2 faults in 1 tables, 0 not caught" in printed, printed
