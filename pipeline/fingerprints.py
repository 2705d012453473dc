"""The code behind every stage as one small file each: DVC re-runs a stage when the code it runs changes.

A fingerprint lists every module that the stage's entry may import, each with the hash of its syntax tree, so
that an edit of a comment or a docstring re-runs nothing and `git diff` of two fingerprints names the module
that did. These rules keep it from saying more than is true:

- Tables of plug-ins ("name": "module:attribute") are no code of their own. A stage counts the entries that
  its params name: a change in kd.py re-runs the recipes with `kd` in them, and a new method re-runs nothing.
  Entries of a table that `_chosen` does not know count all.
- Weights that params name by path (a teacher's checkpoint, pretrained files) count by their content.
- `PLUMBING` is left out and not entered: it reads settings, names paths, starts processes. What it hands to a
  stage, values and files, DVC tracks itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from afdcd.files import atomic_folder, sha256
from afdcd.losses.recipe import methods_of
from pipeline.imports import Sources
from pipeline.params import Params

PLUMBING = frozenset(
    {
        "afdcd.errors",
        "afdcd.plugins",
        "afdcd.training.progress",
        "afdcd.training.stopping",
        "pipeline.cli",
        "pipeline.complaints",
        "pipeline.launch",
        "pipeline.params",
        "pipeline.parent",
        "pipeline.paths",
        "pipeline.strict_yaml",
    }
)
EXPORT_BACKENDS = ("pytorch", "onnxruntime")
"""What an exported network is held against and checked with."""

_DATA = (".html", ".css", ".js", ".json", ".svg", ".mplstyle", ".c", ".h")

Choice = dict[str, frozenset[str]]
"""Table of plug-ins ("module.NAME") -> the entries that a stage runs."""


def _chosen(params: Params, *, source: bool = False, **entries: Iterable[str]) -> Choice:
    """What a stage takes from each table: nothing unless named, but the heads of all networks."""
    networks = [params.teacher.model, *(params.students[name] for name in params.train.students)]
    return {
        "afdcd.losses.METHODS": frozenset(entries.get("methods", ())),
        "afdcd.data.sources.SOURCES": frozenset([params.dataset.name] if source else []),
        "afdcd.models.heads.HEADS": frozenset(entries.get("heads", [network.head for network in networks])),
        "deploy.sessions.BACKENDS": frozenset(entries.get("backends", ())),
    }


def stages(params: Params) -> dict[str, tuple[str, Choice]]:
    """Fingerprint (path without suffix) -> the stage's entry module and its plug-ins."""
    plain = ("train_student", "report", "gate", "release")
    found = {name: (f"pipeline.{name}", _chosen(params)) for name in plain}
    methods = {
        method for recipe in params.distill.run for method in methods_of(params.distill.recipes[recipe])
    }
    heads = {network.head for network in (params.teacher.model, *params.students.values())}
    found["complexity"] = ("pipeline.complexity", _chosen(params, methods=methods, heads=heads))
    found["prepare"] = ("pipeline.prepare", _chosen(params, source=True))
    found["train_teacher"] = ("pipeline.train_teacher", _chosen(params, heads=[params.teacher.model.head]))
    for name in ("export", "reference"):
        found[name] = (f"pipeline.{name}", _chosen(params, backends=EXPORT_BACKENDS))
    for recipe in params.distill.run:
        choice = _chosen(params, methods=methods_of(params.distill.recipes[recipe]))
        found |= {f"{stage}/{recipe}": (f"pipeline.{stage}", choice) for stage in ("adapt", "distill")}
    away = {params.deploy.specs[target].backend for target in params.deploy.elsewhere}
    found["kit"] = ("pipeline.kit", _chosen(params, backends=[*EXPORT_BACKENDS, *away]))
    for target in params.deploy.targets:
        choice = _chosen(params, backends=[params.deploy.specs[target].backend])
        for stage in ("quantize", "build", "evaluate", "benchmark"):
            found[f"{stage}/{target}"] = (f"pipeline.{stage}", choice)
    return found


def weights(params: Params, stage: str) -> list[Path]:
    """Files that a training stage reads from a path in params."""
    kind = stage.partition("/")[0]
    named: list[str | None] = []
    if kind == "train_teacher":
        named = [params.teacher.checkpoint, params.teacher.model.pretrained]
    elif kind in ("train_student", "distill"):
        named = [params.students[name].pretrained for name in params.train.students]
    paths = [Path(name) for name in named if name not in (None, "none", "imagenet")]
    return [
        file
        for path in paths
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if file.is_file()
    ]


def fingerprint(sources: Sources, entry: str, choice: Choice) -> dict[str, str]:
    """Module (or data file of a package) -> hash, for all that `entry` may run.

    Raises:
        UserError: a module is missing or is not Python.
    """
    found: set[str] = set()
    waiting = {entry}
    while waiting:
        found |= sources.closure(waiting.pop(), PLUMBING)
        waiting |= {module for module in _plugins(sources, found, choice) if module not in found}
    hashes = {module: sources[module].sha256 for module in found}
    for module in found:
        hashes |= _data_files(sources, module)
    return dict(sorted(hashes.items()))


def _plugins(sources: Sources, modules: set[str], choice: Choice) -> set[str]:
    """Modules of the table entries that the stage runs."""
    return {
        place.partition(":")[0]
        for module in modules
        for name, table in sources[module].tables.items()
        for entry, place in table.items()
        if entry in choice.get(f"{module}.{name}", table)
    }


def _data_files(sources: Sources, module: str) -> dict[str, str]:
    """Templates and the like that lie in a package's folder."""
    path = sources.path(module)
    if path is None or path.name != "__init__.py":
        return {}
    files = [file for file in path.parent.iterdir() if file.suffix in _DATA and not file.name.startswith(".")]
    return {f"{module}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def write(params: Params, folder: Path, root: Path) -> None:
    """Write one JSON a stage into `folder`, in place of what it held; sources lie below `root`.

    Raises:
        UserError: a module is missing or is not Python, or the disk is full.
    """
    sources = Sources(root)
    with atomic_folder(folder) as temporary:
        for stage, (entry, choice) in stages(params).items():
            path = temporary / f"{stage}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            content = {
                "modules": fingerprint(sources, entry, choice),
                "weights": {str(file): sha256(file) for file in weights(params, stage)},
            }
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
