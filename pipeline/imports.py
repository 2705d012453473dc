"""Which modules a module runs, and a hash of what each one says; read from source, nothing is imported."""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from afdcd.errors import UserError

PACKAGES = ("afdcd", "deploy", "pipeline")
Table = dict[str, str]

_PLUGIN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class Sources:
    """The three packages below `root` as syntax trees; each file is read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._parsed: dict[str, Module] = {}

    def path(self, module: str) -> Path | None:
        """The file of a dotted name, None when no such module lies below the root."""
        if module.partition(".")[0] not in PACKAGES:
            return None
        stem = self.root.joinpath(*module.split("."))
        return next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()), None)

    def __getitem__(self, module: str) -> Module:
        """The parsed module.

        Raises:
            UserError: there is no such module, or it is not Python.
        """
        if module not in self._parsed:
            path = self.path(module)
            if path is None:
                raise UserError(f"the module {module} is missing below {self.root}; restore it from git")
            try:
                said = _said(module, path.read_bytes(), package=path.name == "__init__.py")
            except SyntaxError as error:
                raise UserError(f"{path}, line {error.lineno}: not Python ({error.msg})") from None
            self._parsed[module] = Module(self, said)
        return self._parsed[module]

    def closure(self, entry: str, skip: frozenset[str]) -> set[str]:
        """`entry`, every module it may import, their parent packages; nothing in `skip` is entered."""
        found: set[str] = set()
        waiting = _with_parents(entry)
        while waiting:
            module = waiting.pop()
            if module in found or module in skip:
                continue
            found.add(module)
            waiting += self[module].imports
        return found


class _Said(NamedTuple):
    """What a file says by itself; `imports` are all names in it that an import may load."""

    imports: frozenset[str]
    tables: dict[str, Table]
    sha256: str


class Module:
    """One module: its imports, its tables of plug-ins, and the hash of the rest.

    Attributes:
        imports: names of project modules that it may import, at any depth of the file.
        tables: module-level `NAME = {"name": "module:attribute", ...}`.
        sha256: of the syntax tree without docstrings, comments, positions and those tables.
    """

    def __init__(self, sources: Sources, said: _Said) -> None:
        there = [module for module in said.imports if sources.path(module) is not None]
        self.imports = sorted({name for module in there for name in _with_parents(module)})
        self.tables, self.sha256 = said.tables, said.sha256


@functools.cache
def _said(name: str, content: bytes, *, package: bool) -> _Said:
    """What a file says; a function of its content alone.

    Raises:
        SyntaxError: it is not Python.
    """
    tree = ast.parse(content)
    _strip(tree)
    imports = frozenset(named for node in ast.walk(tree) for named in _named(name, node, package=package))
    tables: dict[str, Table] = {}
    kept: list[ast.stmt] = []
    for statement in tree.body:
        table = _table(statement)
        if table:
            tables.update(table)
        else:
            kept.append(statement)
    tree.body = kept
    return _Said(imports, tables, hashlib.sha256(repr(_canonical(tree)).encode()).hexdigest())


def _strip(tree: ast.Module) -> None:
    """Remove what a running program does not see: bare strings and `if TYPE_CHECKING:` blocks."""
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list):
                kept = [statement for statement in block if not _invisible(statement)]
                setattr(node, field, kept or ([ast.Pass()] if block and field == "body" else []))


def _invisible(node: Any) -> bool:
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    if isinstance(node, ast.If) and not node.orelse:
        return ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    return False


def _canonical(node: Any) -> Any:
    """A tree as nested tuples that are the same in every Python version: empty fields are left out."""
    if isinstance(node, ast.Constant):
        return ("Constant", repr(node.value))
    if isinstance(node, ast.AST):
        fields = ((name, getattr(node, name, None)) for name in node._fields)
        return (type(node).__name__, *((n, _canonical(v)) for n, v in fields if v is not None and v != []))
    return [_canonical(item) for item in node] if isinstance(node, list) else node


def _table(statement: ast.stmt) -> Mapping[str, Table] | None:
    """`{NAME: table}` when the statement assigns a table of plug-ins."""
    if isinstance(statement, ast.AnnAssign):
        target: ast.expr = statement.target
    elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
    else:
        return None
    value = statement.value
    if not (isinstance(target, ast.Name) and isinstance(value, ast.Dict) and value.keys):
        return None
    texts = [
        item.value if isinstance(item, ast.Constant) and isinstance(item.value, str) else ""
        for item in (*value.keys, *value.values)
    ]
    names, entries = texts[: len(value.keys)], texts[len(value.keys) :]
    if not all(names) or not all(_PLUGIN.fullmatch(entry) for entry in entries):
        return None
    return {target.id: dict(zip(names, entries, strict=True))}


def _with_parents(module: str) -> list[str]:
    """A module and the packages that Python imports before it."""
    parts = module.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def _named(name: str, node: ast.AST, *, package: bool) -> Iterator[str]:
    """Dotted names that an import statement (or `import_module("...")`) may load."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parents = name.split(".")
        above = parents[: len(parents) - node.level + package] if node.level else []
        base = ".".join([*above, *filter(None, [node.module])])
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and node.args and ast.unparse(node.func).endswith("import_module"):
        first = node.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield first.value
