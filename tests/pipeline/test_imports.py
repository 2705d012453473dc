from __future__ import annotations

from pathlib import Path

import pytest

from afdcd.errors import UserError
from pipeline.imports import Sources


def package(root: Path, files: dict[str, str]) -> Sources:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        for parent in path.relative_to(root).parents[:-1]:
            (root / parent / "__init__.py").touch()
    return Sources(root)


def closure(root: Path, files: dict[str, str], skip: frozenset[str] = frozenset()) -> set[str]:
    return package(root, files).closure("pipeline.stage", skip)


@pytest.mark.parametrize(
    "statement",
    [
        "import afdcd.losses.kd",
        "import afdcd.losses.kd as k",
        "from afdcd.losses import kd",
        "from afdcd.losses.kd import anything",
        "def main():\n    if 1:\n        from afdcd.losses import kd",
        "import importlib\nx = importlib.import_module('afdcd.losses.kd')",
        "try:\n    import afdcd.losses.kd\nexcept ImportError:\n    pass",
    ],
)
def test_every_form_of_import_is_followed_with_its_packages(tmp_path: Path, statement: str) -> None:
    found = closure(tmp_path, {"pipeline/stage.py": statement, "afdcd/losses/kd.py": ""})
    assert found == {"pipeline", "pipeline.stage", "afdcd", "afdcd.losses", "afdcd.losses.kd"}


def test_relative_imports(tmp_path: Path) -> None:
    files = {
        "pipeline/stage.py": "from . import other\nfrom .sub import deep",
        "pipeline/other.py": "",
        "pipeline/sub/deep.py": "from ..other import x\nfrom .. import third",
        "pipeline/third.py": "",
    }
    modules = {
        "pipeline",
        "pipeline.stage",
        "pipeline.other",
        "pipeline.sub",
        "pipeline.sub.deep",
        "pipeline.third",
    }
    assert closure(tmp_path, files) == modules


def test_foreign_packages_type_checking_blocks_and_skipped_modules_are_left_out(tmp_path: Path) -> None:
    files = {
        "pipeline/stage.py": (
            "import os, numpy\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import afdcd.a\n"
            "import pipeline.plumbing"
        ),
        "pipeline/plumbing.py": "import afdcd.b",
        "afdcd/a.py": "",
        "afdcd/b.py": "",
    }
    assert closure(tmp_path, files, frozenset({"pipeline.plumbing"})) == {"pipeline", "pipeline.stage"}


def test_an_else_branch_of_type_checking_still_counts(tmp_path: Path) -> None:
    text = "if TYPE_CHECKING:\n    import afdcd.a\nelse:\n    import afdcd.b"
    assert "afdcd.b" in closure(tmp_path, {"pipeline/stage.py": text, "afdcd/a.py": "", "afdcd/b.py": ""})


def sha(tmp_path: Path, text: str) -> str:
    return package(tmp_path, {"afdcd/m.py": text})["afdcd.m"].sha256


BASE = '"""Doc."""\nX = {"a": 1}\ndef f(x):\n    """Doc."""\n    return x + 1\n'


@pytest.mark.parametrize(
    "text",
    [
        "# why\n" + BASE,
        BASE.replace("Doc", "Other words"),
        BASE.replace('    """Doc."""\n', ""),
        BASE.replace("x + 1", "(x   +\n        1)"),
        BASE.replace("X =", "\n\nX ="),
        BASE + '"""About f."""\n',
    ],
)
def test_comments_docstrings_and_layout_do_not_count(tmp_path: Path, text: str) -> None:
    assert sha(tmp_path / "new", text) == sha(tmp_path / "old", BASE)


@pytest.mark.parametrize(
    "text",
    [
        BASE.replace("x + 1", "x + 2"),
        BASE.replace("x + 1", "x + 1.0"),
        BASE.replace("x + 1", "x + None"),
        BASE.replace("x + 1", "x + True"),
        BASE.replace("def f(x)", "def f(x, *, y=None)"),
        BASE.replace('"a": 1', '"a": "1"'),
        BASE.replace("return", "yield"),
    ],
)
def test_every_other_change_counts(tmp_path: Path, text: str) -> None:
    assert sha(tmp_path / "new", text) != sha(tmp_path / "old", BASE)


def test_a_function_of_only_a_docstring_equals_one_that_passes(tmp_path: Path) -> None:
    assert sha(tmp_path / "a", 'def f():\n    """Doc."""\n') == sha(tmp_path / "b", "def f():\n    pass\n")


def test_tables_of_plugins_are_read_and_not_hashed(tmp_path: Path) -> None:
    one = package(tmp_path / "1", {"afdcd/m.py": 'T: dict[str, str] = {"kd": "afdcd.kd:KD"}\ny = 1'})[
        "afdcd.m"
    ]
    two = package(tmp_path / "2", {"afdcd/m.py": "y = 1"})["afdcd.m"]
    assert one.tables == {"T": {"kd": "afdcd.kd:KD"}} and one.sha256 == two.sha256


@pytest.mark.parametrize(
    "table", ['{"a": "b"}', '{"a": 1}', '{1: "a.b:C"}', "{}", '{"a": "a.b:C", **x}', '{"a": "12:30"}']
)
def test_other_dicts_are_code(tmp_path: Path, table: str) -> None:
    assert package(tmp_path, {"afdcd/m.py": f"T = {table}"})["afdcd.m"].tables == {}


def test_what_is_not_python_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"m\.py, line 2: not Python"):
        sha(tmp_path, "x = 1\ndef f(:\n")


def test_a_missing_module_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pipeline.stage is missing"):
        Sources(tmp_path).closure("pipeline.stage", frozenset())
