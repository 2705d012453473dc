from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from afdcd.errors import UserError
from deploy.archive import inspect, load_program
from deploy.bundle import PROGRAM
from deploy.export import Exported

pytestmark = pytest.mark.xdist_group("little")

WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
MODEL = "models/model.json"
SAMPLES = "data/sample_inputs/model.pt"


class _Trap:
    """An object whose unpickling makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def _rewrite(content: bytes, edits: dict[str, bytes], extra: dict[str, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        for info in old.infolist():
            name = info.filename.partition("/")[2]
            new.writestr(info.filename, edits.get(name, old.read(info)))
        for name, added in (extra or {}).items():
            new.writestr(f"{root}/{name}", added)
    return buffer.getvalue()


def _edit_json(content: bytes, name: str, change: Callable[[Any], None]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        member = next(entry for entry in archive.namelist() if entry.endswith(name))
        value = json.loads(archive.read(member))
    change(value)
    return _rewrite(content, {name: json.dumps(value).encode()})


def _refused(content: bytes, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        load_program(content)


@pytest.fixture(scope="module")
def good(exported: Exported) -> bytes:
    return exported.files[PROGRAM]


def test_our_own_file_passes_even_rewritten(good: bytes) -> None:
    inspect(good)
    load_program(_rewrite(good, {}))


def test_a_file_for_many_sizes_passes(dynamic: Exported) -> None:
    """Its symbolic shapes hold divisions, which a file for one size does not."""
    content = dynamic.files[PROGRAM]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (member,) = [name for name in archive.namelist() if name.endswith(MODEL)]
        assert b"FloorDiv" in archive.read(member)
    load_program(content)


def test_pickled_example_inputs_are_refused_unread(good: bytes, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save((_Trap(tmp_path / "sprung"),), buffer)
    _refused(_rewrite(good, {SAMPLES: buffer.getvalue()}), "bytes of pickled example inputs")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("config", [WEIGHTS, CONSTANTS])
def test_pickled_tensors_are_refused_unread(good: bytes, tmp_path: Path, config: str) -> None:
    def ask(value: Any) -> None:
        entry = next(iter(value["config"].values()))
        entry["use_pickle"] = True

    asking = _edit_json(good, config, ask)
    trap = pickle.dumps(_Trap(tmp_path / "sprung"))
    folder = config.rpartition("/")[0]
    name = f"{folder}/{'weight' if config == WEIGHTS else 'tensor'}_0"
    _refused(_rewrite(asking, {name: trap}), "as pickle")
    assert not (tmp_path / "sprung").exists()


def test_opaque_constants_are_refused(good: bytes) -> None:
    def ask(value: Any) -> None:
        next(iter(value["config"].values()))["path_name"] = "opaque_obj_0"

    _refused(_edit_json(good, CONSTANTS, ask), "as pickle")


@pytest.mark.parametrize(
    "extra",
    ["data/aotinductor/model/run.so", "data/weights/model.pt", "data/constants/opaque_obj_0", "extra/x"],
)
def test_members_that_are_never_needed_are_refused(good: bytes, extra: str) -> None:
    _refused(_rewrite(good, {}, {extra: b"x"}), "which a network of this project never needs")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_stands_twice_is_refused(good: bytes) -> None:
    _refused(_rewrite(good, {}, {MODEL: b"{}"}), "never needs")


def test_guards_as_source_are_refused(good: bytes) -> None:
    _refused(
        _edit_json(good, MODEL, lambda value: value["guards_code"].append("__import__('os')")),
        "Python source",
    )


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.ops.aten.__class__.default",
        "torch.ops.aten.relu.__init__",
        "#mine",
        "math.sqrt",
        "_operator.call",
    ],
)
def test_calls_of_other_things_than_operators_are_refused(good: bytes, target: str) -> None:
    def call(value: Any) -> None:
        value["graph_module"]["graph"]["nodes"][0]["target"] = target

    _refused(_edit_json(good, MODEL, call), "which is no aten operator")


@pytest.mark.parametrize(
    "text",
    ["__import__('os').system('id')", "Symbol('s0', x=id())", "exec(1)", "s0.x", "FloorDiv.__call__(1)"],
)
def test_expressions_that_would_be_evaluated_are_refused(good: bytes, text: str) -> None:
    def hide(value: Any) -> None:
        value["range_constraints"][text] = {"min_val": 0, "max_val": None}

    def bury(value: Any) -> None:
        value["graph_module"]["graph"]["sym_int_values"]["x"] = {"as_expr": {"expr_str": text, "hint": None}}

    for change in (hide, bury):
        _refused(_edit_json(good, MODEL, change), "which loading would evaluate")


def test_notes_on_nodes_are_refused(good: bytes) -> None:
    def note(value: Any) -> None:
        value["graph_module"]["graph"]["nodes"][0]["metadata"]["stack_trace"] = "x"

    _refused(_edit_json(good, MODEL, note), "carries metadata")


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[: len(content) // 2]])
def test_a_damaged_file_is_refused_in_one_sentence(good: bytes, damage: Callable[[bytes], bytes]) -> None:
    _refused(damage(good), "no complete .pt2 archive")


def test_a_zip_of_something_else_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/archive_version", "0")
    _refused(buffer.getvalue(), "no complete .pt2 archive")


def test_weights_that_do_not_fit_are_refused_in_one_sentence(good: bytes) -> None:
    _refused(_rewrite(good, {"data/weights/weight_0": b"abc"}), "cannot load this .pt2")
