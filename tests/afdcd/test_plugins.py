from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from afdcd.errors import UserError
from afdcd.plugins import (
    checked_options,
    class_constant,
    constructor_model,
    nearest,
    require_known,
    resolve,
)

BASE = """
from __future__ import annotations
raise RuntimeError("imported")
class Root:
    terms: ClassVar[tuple[str, ...]]
    has_first_phase: ClassVar[bool] = False
class Base(Root):
    terms = ("one", "two")
    def __init__(self, context, *, depth: Count, mode: Mode) -> None: ...
Mode = Literal["fast", "slow"]
"""
CHILD = """
from plugs.base import Base as Parent
raise RuntimeError("imported")
class Child(Parent):
    has_first_phase: ClassVar[bool] = True
class Own(Parent):
    def __init__(self, given: int, *, size: tuple[int, int], where: Path, limit: float | None, on: bool): ...
class Careless:
    def __init__(self, *, depth: int = 3): ...
class Untyped:
    def __init__(self, *, depth): ...
class Plain: ...
"""


@pytest.fixture(autouse=True)
def plugs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose modules must be read, never imported."""
    folder = tmp_path / "plugs"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "base.py").write_text(BASE)
    (folder / "child.py").write_text(CHILD)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("plugs", None)


def test_options_are_read_without_importing() -> None:
    options = {"size": [3, 4], "where": "a/b", "limit": None, "on": True}
    checked = checked_options("plugs.child:Own", options, "here")
    assert checked == {"size": (3, 4), "where": Path("a/b"), "limit": None, "on": True}


@pytest.mark.parametrize("target", ["plugs.base:Base", "plugs.child:Child", "plugs.child:Parent"])
def test_inherited_and_imported_constructors_are_found(target: str) -> None:
    assert checked_options(target, {"depth": 2, "mode": "slow"}, "here") == {"depth": 2, "mode": "slow"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0, "mode": "fast"}, r"here\.depth = 0: .*greater than or equal to 1"),
        ({"depth": 1, "mode": "quick"}, r"here\.mode = 'quick': .*'fast' or 'slow'"),
        ({"depth": 1}, r"here\.mode is missing"),
        ({"dept": 1, "mode": "fast"}, "here: unknown key 'dept'; did you mean 'depth'"),
        ({"depth": 1.5, "mode": "fast"}, r"here\.depth = 1\.5"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked_options("plugs.base:Base", options, "here")


def test_a_class_without_options_takes_none() -> None:
    assert checked_options("plugs.child:Plain", {}, "here") == {}
    with pytest.raises(UserError, match="unknown key 'x'"):
        checked_options("plugs.child:Plain", {"x": 1}, "here")


@pytest.mark.parametrize("name", ["Careless", "Untyped"])
def test_hidden_defaults_and_untyped_options_are_a_fault_of_the_class(name: str) -> None:
    with pytest.raises(TypeError, match="'depth' needs an annotation and no default"):
        constructor_model(f"plugs.child:{name}")


def test_constants_come_from_the_nearest_class() -> None:
    assert class_constant("plugs.child:Child", "terms") == ("one", "two")
    assert class_constant("plugs.child:Child", "has_first_phase") is True
    assert class_constant("plugs.base:Base", "has_first_phase") is False
    with pytest.raises(AttributeError, match="weight"):
        class_constant("plugs.child:Child", "weight")


def test_missing_classes_and_modules_are_named() -> None:
    with pytest.raises(AttributeError, match="Nobody"):
        constructor_model("plugs.child:Nobody")
    with pytest.raises(ModuleNotFoundError, match="plugs.nowhere"):
        constructor_model("plugs.nowhere:Child")


def test_names_are_resolved_or_refused_with_the_nearest() -> None:
    table = {"path": "pathlib:Path"}
    assert resolve(table, "path", "thing") is Path
    assert require_known(table, "path", "thing") == "pathlib:Path"
    with pytest.raises(UserError, match="unknown thing 'pth'; did you mean 'path'"):
        resolve(table, "pth", "thing")
    assert nearest("zzz", ["b", "a"]) == "valid: a, b"
