"""YAML as DVC reads it (version 1.2 scalars), with duplicate keys refused."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from afdcd.errors import UserError

_MAP = "tag:yaml.org,2002:map"
_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}


class _Loader(yaml.SafeLoader):
    """SafeLoader reads YAML 1.1, where `1e-3` is text and `no` is false; DVC reads 1.2, and so does this."""

    yaml_implicit_resolvers = {}

    def construct_yaml_int(self, node: Any) -> int:
        """An integer; leading zeros do not make it octal."""
        return int(self.construct_scalar(node))

    def construct_unique_mapping(self, node: yaml.MappingNode) -> dict[Hashable, Any]:
        """A mapping whose keys are text and stand once."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node)
            where = f"line {key_node.start_mark.line + 1}"
            if not isinstance(key, str):
                raise UserError(f"{where}: the key {key!r} is not text; quote it")
            if key in seen:
                raise UserError(f"{where}: the key {key!r} stands twice; delete one of the two")
            seen.add(key)
        return self.construct_mapping(node, deep=True)


for _name, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _first)
_Loader.add_constructor(_MAP, _Loader.construct_unique_mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def parse(text: str, source: str) -> dict[str, Any]:
    """The mapping that `text` holds; `source` names it in errors.

    Raises:
        UserError: the text is not YAML, is not a mapping, or has a key twice.
    """
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{source} must hold sections such as 'dataset:', but holds {type(value).__name__}")
    return value
