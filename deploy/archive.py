"""The .pt2 file without pickle: what is written needs none, and what asks for it is refused unread.

What torch 2.15 does with a .pt2 (`torch.export.pt2_archive`): the archive is a zip. Weights and
constants are raw bytes described by JSON, unless an entry says `use_pickle`; that entry goes through
`torch.load(weights_only=False)` or `pickle.loads`. Example inputs are written by `torch.save`; if
loading them with `weights_only=True` fails, torch tries again without it, which runs whatever the
pickle holds. Three more ways lead from a file to code: compiled libraries under data/aotinductor,
`guards_code` (Python source), and symbolic shapes, whose text goes through `sympy.sympify`, an eval.
The names of operators are looked up below `torch`, which reaches more than operators.

So `save_program` drops the example inputs and all notes on the nodes (they hold paths of this
machine), and `inspect` lets pass only what such a file needs: raw weights, a graph of aten operators,
plain symbols. The first guard remains the SHA-256 in the manifest, which callers check before.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from afdcd.errors import UserError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(serialization_id|version)"
    r"|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt|models/model\.json"
)
_OPERATOR = re.compile(
    r"torch\.ops\.aten\.((?!__)\w+|__(and|or|xor|lshift|rshift)__)\.(?!__)\w+"
    r"|_operator\.(getitem|add|sub|mul|floordiv|neg)"
)
_SYMBOL = r"Symbol\('[su]\d+'(?:, [a-z]+=(?:True|False))*\)"
_SYMBOLIC = re.compile(rf"({_SYMBOL}|Integer|Add|Mul|FloorDiv|Max|Min|[su]\d+|\d+|[-+*, ()])*")


def save_program(program: ExportedProgram) -> bytes:
    """The program as a .pt2 that holds no pickle and no paths; equal programs give equal bytes.

    The program loses its example inputs and the notes on its nodes.

    Raises:
        UserError: the program needs more than raw weights and aten operators.
    """
    import torch

    program.example_inputs = None
    for node in program.graph.nodes:
        for note in ("stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "from_node", "custom"):
            node.meta.pop(note, None)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    content = buffer.getvalue()
    inspect(content)
    return content


def load_program(content: bytes) -> ExportedProgram:
    """The program in the content of a .pt2 file.

    Raises:
        UserError: the file is damaged, or asks for pickle or for anything that could run code.
    """
    import torch

    inspect(content)
    try:
        return torch.export.load(io.BytesIO(content))
    except Exception as error:
        raise UserError(
            f"torch {torch.__version__} cannot load this .pt2 ({error}); export it again"
        ) from error


def inspect(content: bytes) -> None:
    """Let a .pt2 pass only if loading it needs no pickle and evaluates no text.

    Raises:
        UserError: the file is no .pt2, or holds something else; the message says what.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = _members(archive)
            if sample := members.get("data/sample_inputs/model.pt"):
                raise _refusal(f"it holds {len(sample)} bytes of pickled example inputs")
            for name in (
                "data/weights/model_weights_config.json",
                "data/constants/model_constants_config.json",
            ):
                _check_payload(json.loads(members[name]))
            _check_program(json.loads(members["models/model.json"]))
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"this is no complete .pt2 archive ({error}); export the network again") from error


def _refusal(reason: str) -> UserError:
    return UserError(f"refusing to load this .pt2: {reason}; export the network again with this project")


def _members(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """Name below the root folder -> content, only the JSON and the sample inputs being read."""
    names = [info.filename.partition("/")[2] for info in archive.infolist()]
    for name in names:
        if not _MEMBERS.fullmatch(name) or names.count(name) > 1:
            raise _refusal(f"it holds {name!r}, which a network of this project never needs")
    wanted = (".json", "data/sample_inputs/model.pt")
    return {
        name: archive.read(info)
        for name, info in zip(names, archive.infolist(), strict=True)
        if name.endswith(wanted)
    }


def _check_payload(payload: dict[str, Any]) -> None:
    for name, entry in payload["config"].items():
        if entry["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
            raise _refusal(f"it stores {name!r} as pickle")


def _check_program(program: dict[str, Any]) -> None:
    if program["guards_code"]:
        raise _refusal("it holds guards as Python source")
    for node in program["graph_module"]["graph"]["nodes"]:
        if not _OPERATOR.fullmatch(node["target"]):
            raise _refusal(f"its graph calls {node['target']!r}, which is no aten operator")
        if node["metadata"]:
            raise _refusal(f"its node {node['name']!r} carries metadata")
    for text in (*program["range_constraints"], *_expressions(program["graph_module"])):
        if not _SYMBOLIC.fullmatch(text):
            raise _refusal(f"it holds the expression {text!r}, which loading would evaluate")


def _expressions(value: Any) -> Iterator[str]:
    """Every text under a key `expr_str`, however deep."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "expr_str":
                yield item
            else:
                yield from _expressions(item)
    elif isinstance(value, list):
        for item in value:
            yield from _expressions(item)
