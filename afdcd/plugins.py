"""Tables of plug-ins: a name leads to `module:attribute`, imported only when it is asked for.

What a plug-in's constructor takes is read from its source text, so that checking a whole params.yaml imports
neither torch nor a vendor's library.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, create_model

from afdcd import config
from afdcd.errors import UserError

_ANNOTATIONS: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "tuple": tuple,
    "list": list,
    "dict": dict,
    "Path": Path,
    "Literal": Literal,
    "Annotated": Annotated,
    "Field": Field,
    "Size": config.Size,
    "Positive": config.Positive,
    "NonNegative": config.NonNegative,
    "Share": config.Share,
    "Some": config.Some,
    "Count": config.Count,
}


def nearest(name: str, valid: Iterable[str]) -> str:
    """A half sentence that proposes the nearest valid name, or lists all of them."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else "valid: " + ", ".join(names)


def resolve(table: Mapping[str, str], name: str, kind: str) -> Any:
    """The object that `table[name]` ("module:attribute") names.

    Raises:
        UserError: the table has no such name; the nearest valid one is proposed.
    """
    module, _, attribute = require_known(table, name, kind).partition(":")
    return getattr(importlib.import_module(module), attribute)


def require_known(table: Mapping[str, str], name: str, kind: str) -> str:
    """The "module:attribute" of a name.

    Raises:
        UserError: the table has no such name; the nearest valid one is proposed.
    """
    if name not in table:
        raise UserError(f"unknown {kind} {name!r}; {nearest(name, table)}")
    return table[name]


@cache
def constructor_model(target: str) -> type[BaseModel]:
    """The keyword-only options of the class "module:Class" as a model that refuses other keys.

    Annotations may use the plain types, `Literal`, `tuple`, `list`, `Path`, the constrained types of
    `afdcd.config`, and aliases assigned in the same module.

    Raises:
        TypeError: an option has no annotation or has a default; its value must stand in params.yaml.
    """
    module, name = _locate(*target.split(":"))
    fields: dict[str, Any] = {}
    for cls, home in _lineage(module, name):
        functions = {node.name: node for node in cls.body if isinstance(node, ast.FunctionDef)}
        if init := functions.get("__init__"):
            for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
                if argument.annotation is None or default is not None:
                    raise TypeError(f"{target}: option {argument.arg!r} needs an annotation and no default")
                fields[argument.arg] = (_evaluate(argument.annotation, home), ...)
            break
    return create_model(name, __config__=config.Config.model_config, **fields)


def validated(model: type[BaseModel], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values checked by a model and converted to its types.

    Args:
        model: the expected keys and their types.
        values: key -> value, as params.yaml holds them.
        where: the place to name in a complaint, for instance "distill.recipes.kd.kd".

    Raises:
        UserError: a key is unknown or missing, or its value impossible.
    """
    for key in values:
        if key not in model.model_fields:
            raise UserError(f"{where}: unknown key {key!r}; {nearest(key, model.model_fields)}")
    try:
        valid = model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([where, *(str(part) for part in first["loc"] if not _is_type(part))])
        if first["type"] == "missing":
            raise UserError(f"{key} is missing; every value stands in params.yaml") from None
        raise UserError(f"{key} = {first['input']!r}: {first['msg']}") from None
    return {key: getattr(valid, key) for key in model.model_fields}


def _is_type(part: int | str) -> bool:
    """Whether a part of a complaint's place is no key: pydantic names the tried members of a union there."""
    return isinstance(part, str) and (part in _ANNOTATIONS or "[" in part)


def checked_options(target: str, options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Options of the class "module:Class" checked against its constructor; the rest is as in `validated`."""
    return validated(constructor_model(target), options, where)


def class_constant(target: str, constant: str) -> Any:
    """The literal value of a class attribute of "module:Class" or of the nearest base that has it.

    Raises:
        AttributeError: neither the class nor a base in this project assigns it.
    """
    module, name = _locate(*target.split(":"))
    for cls, _ in _lineage(module, name):
        for node in cls.body:
            names = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            found = any(isinstance(n, ast.Name) and n.id == constant for n in names)
            if found and isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                return ast.literal_eval(node.value)
    raise AttributeError(f"{target} assigns no {constant!r}")


@cache
def _parse(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no source of {module}")
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _locate(module: str, name: str) -> tuple[str, str]:
    """Where a class really stands: a name that its module only imports is followed."""
    for node in _parse(module).body:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _locate(node.module, alias.name)
    return module, name


def _lineage(module: str, name: str) -> list[tuple[ast.ClassDef, str]]:
    """The class and its bases in this project, nearest first, each with its module."""
    found = [n for n in _parse(module).body if isinstance(n, ast.ClassDef) and n.name == name]
    if not found:
        raise AttributeError(f"{module} holds no class {name!r}")
    line = [(found[0], module)]
    for base in found[0].bases:
        if isinstance(base, ast.Name):
            home, base_name = _locate(module, base.id)
            if home.split(".")[0] == module.split(".")[0] and _has_class(home, base_name):
                line += _lineage(home, base_name)
    return line


def _has_class(module: str, name: str) -> bool:
    return any(isinstance(n, ast.ClassDef) and n.name == name for n in _parse(module).body)


def _evaluate(annotation: ast.expr, module: str) -> Any:
    """The type that an annotation names; aliases of its module are evaluated first."""
    aliases = {
        node.targets[0].id: node.value
        for node in _parse(module).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    used = {n.id for n in ast.walk(annotation) if isinstance(n, ast.Name)} - set(_ANNOTATIONS)
    known = _ANNOTATIONS | {name: _evaluate(aliases[name], module) for name in used & set(aliases)}
    return eval(compile(ast.Expression(annotation), module, "eval"), {"__builtins__": {}}, known)
