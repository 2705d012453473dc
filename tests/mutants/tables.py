"""The tables of faults: what is planted where, and which tests must see it."""

from __future__ import annotations

import ast
import difflib
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

TABLES = "tests/mutants/faults"


class TableError(Exception):
    """A table that cannot be read, or a fault that no longer fits the code."""


@dataclass(frozen=True)
class Fault:
    """One wrong line.

    Attributes:
        file: of the project, from its root.
        old: text that stands there exactly once.
        new: what is put in its place.
        means: the mistake, in words.
    """

    file: str
    old: str
    new: str
    means: str


@dataclass(frozen=True)
class Table:
    """The faults of one method or shared part, and the test files that must catch each of them."""

    name: str
    tests: tuple[str, ...]
    faults: tuple[Fault, ...]

    def thinned(self, step: int) -> Table:
        """The table with each `step`-th fault, the first one among them."""
        return replace(self, faults=self.faults[:: max(1, step)])


def read_tables(root: Path, names: list[str]) -> list[Table]:
    """The named tables of a project, all of them where no name is given.

    Raises:
        TableError: an unknown name, or a table of another form.
    """
    found = {path.stem: path for path in sorted((root / TABLES).glob("*.toml"))}
    for name in names:
        if name not in found:
            near = difflib.get_close_matches(name, found, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(found)}"
            raise TableError(f"no table of faults is called {name!r}; {hint}")
    return [_read(found[name], root) for name in names or found]


def _read(path: Path, root: Path) -> Table:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise TableError(f"{path}: {error}") from error
    unknown = content.keys() - {"file", "tests", "fault"}
    faults = [_fault(path, content.get("file"), one) for one in content.get("fault", [])]
    if unknown or not faults or not content.get("tests"):
        raise TableError(f"{path}: a table has file, tests and [[fault]], got {', '.join(content)}")
    # The other way round formulas come before the module's tests, which take longer.
    paths = [test for named in content["tests"] for test in sorted(root.glob(named), reverse=True)]
    tests = [str(test.relative_to(root)) for test in paths]
    if not tests:
        raise TableError(f"{path}: no tests are called {' or '.join(content['tests'])}")
    return Table(path.stem, tuple(tests), tuple(faults))


def _fault(path: Path, file: str | None, one: dict[str, Any]) -> Fault:
    try:
        return Fault(**({"file": file} | one))
    except TypeError as error:
        raise TableError(f"{path}: a fault has means, old, new and perhaps file, got {one}") from error


def planted(fault: Fault, root: Path) -> str:
    """The text of the fault's file with the fault in it.

    Raises:
        TableError: the old text is not there exactly once, or what results is no Python.
    """
    source = (root / fault.file).read_text(encoding="utf-8")
    place = f"{fault.file}, {fault.means!r}"
    if (count := source.count(fault.old)) != 1:
        raise TableError(f"{place}: the text must stand there once, it does {count} times: {fault.old}")
    text = source.replace(fault.old, fault.new)
    if not fault.file.endswith(".py"):
        if text == source:
            raise TableError(f"{place}: it changes no code: {fault.new}")
        return text  # C that does not compile leaves its tests nothing to see: the fault survives
    try:
        changed = ast.dump(ast.parse(text)) != ast.dump(ast.parse(source))
    except SyntaxError as error:
        raise TableError(f"{place}: with it the file is no Python: {error}") from error
    if not changed:
        raise TableError(f"{place}: it changes no code: {fault.new}")
    return text
