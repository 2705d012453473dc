"""The names of timm's backbones and their options, read from its sources: no torch import."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from afdcd.errors import UserError
from afdcd.plugins import nearest

_REGISTERED = re.compile(r"^@register_model\s*\ndef (\w+)\(", re.MULTILINE)
_TAGGED = re.compile(r"""['"](\w+\.\w+)['"]\s*:""")

RESERVED = frozenset(
    {"features_only", "in_chans", "num_classes", "out_indices", "output_stride", "pretrained"}
)
"""Arguments of timm's constructors that a Segmenter sets itself."""


OWN_OPTIONS = frozenset({"dilate_whole_stages"})
"""Options of `afdcd.models.backbone.Backbone` itself, which stand among timm's."""


@functools.cache
def _sources() -> tuple[Mapping[str, Path], frozenset[str]]:
    """Where each architecture is registered, and all `architecture.weights` names."""
    found = importlib.util.find_spec("timm")
    if found is None or not found.submodule_search_locations:
        raise UserError("the package timm is not installed; run make install")
    architectures: dict[str, Path] = {}
    tagged: set[str] = set()
    for path in sorted(Path(found.submodule_search_locations[0], "models").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        architectures.update(dict.fromkeys(_REGISTERED.findall(text), path))
        tagged.update(_TAGGED.findall(text))
    return architectures, frozenset(name for name in tagged if name.partition(".")[0] in architectures)


@functools.cache
def _option_names(path: Path) -> frozenset[str]:
    """Every argument name in a module of timm: all that a backbone registered there may take."""
    nodes = ast.walk(ast.parse(path.read_bytes()))
    signatures = [node.args for node in nodes if isinstance(node, ast.FunctionDef)]
    named = {arg.arg for args in signatures for arg in (*args.args, *args.kwonlyargs)}
    return frozenset(named | OWN_OPTIONS) - RESERVED


def check_backbone(name: str, options: Mapping[str, Any]) -> None:
    """Refuse a backbone or an option that timm cannot know; values are judged when the network is built.

    Args:
        name: a timm architecture, with or without the tag of its weights (`resnet18.a1_in1k`).
        options: keywords of its constructor.

    Raises:
        UserError: an unknown or reserved name; the nearest valid one is proposed.
    """
    architectures, tagged = _sources()
    architecture, _, tag = name.partition(".")
    if architecture not in architectures:
        raise UserError(f"timm has no backbone {name!r}; {nearest(architecture, architectures)}")
    if tag and name not in tagged:
        weights = [known for known in tagged if known.startswith(f"{architecture}.")]
        raise UserError(f"timm has no weights {name!r} for {architecture}; {nearest(name, weights)}")
    for option in options:
        if option in RESERVED:
            raise UserError(f"backbone_options.{option} is set by the Segmenter itself; remove it there")
        valid = _option_names(architectures[architecture])
        if option not in valid:
            raise UserError(f"backbone {name!r} takes no option {option!r}; {nearest(option, valid)}")
