"""Tables of plug-ins: a name leads to `module:attribute`, imported only when it is asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from afdcd.errors import UserError


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
    if name not in table:
        raise UserError(f"unknown {kind} {name!r}; {nearest(name, table)}")
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
