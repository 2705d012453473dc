from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline import fingerprints, params
from pipeline.imports import Sources

KD = "afdcd/losses/kd.py"
CONTRAST = "afdcd/losses/afdcd.py"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A copy of the three packages that tests may edit and must restore."""
    folder = tmp_path_factory.mktemp("tree")
    for package in ("afdcd", "deploy", "pipeline"):
        shutil.copytree(root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def contents(tree: Path, text: str) -> dict[str, dict[str, str]]:
    sources = Sources(tree)
    stages = fingerprints.stages(params.parse(text))
    return {
        name: fingerprints.fingerprint(sources, entry, choice) for name, (entry, choice) in stages.items()
    }


def stages_changed_by(tree: Path, text: str, name: str, old: str, new: str) -> set[str]:
    before = contents(tree, text)
    path = tree / name
    source = path.read_text(encoding="utf-8")
    assert old in source
    try:
        path.write_text(source.replace(old, new, 1), encoding="utf-8")
        after = contents(tree, text)
    finally:
        path.write_text(source, encoding="utf-8")
    return {stage for stage in before if before[stage] != after[stage]}


def appended(tree: Path, text: str, name: str, line: str) -> set[str]:
    source = (tree / name).read_text(encoding="utf-8")
    return stages_changed_by(tree, text, name, source, f"{source}\n{line}\n")


def test_a_comment_and_a_docstring_change_nothing(tree: Path, params_text: str) -> None:
    for name in (KD, CONTRAST, "afdcd/config.py", "pipeline/paths.py", "deploy/bundle.py"):
        assert appended(tree, params_text, name, "# a remark") == set()
        assert stages_changed_by(tree, params_text, name, '"""', '"""X ') == set()


def test_a_method_belongs_to_the_recipes_that_use_it(tree: Path, params_text: str) -> None:
    assert appended(tree, params_text, CONTRAST, "x = 1") == {"complexity", "adapt/afdcd", "distill/afdcd"}
    users = {f"{stage}/{recipe}" for stage in ("adapt", "distill") for recipe in ("kd", "afdcd")}
    assert appended(tree, params_text, KD, "x = 1") == {"complexity"} | users
    assert appended(tree, params_text, "afdcd/losses/mgd.py", "x = 1") == set()


def test_a_new_plugin_in_a_table_changes_no_stage(tree: Path, params_text: str) -> None:
    table = "afdcd/losses/__init__.py"
    assert (
        stages_changed_by(
            tree, params_text, table, '    "kd":', '    "new": "afdcd.losses.new:New",\n    "kd":'
        )
        == set()
    )


def test_a_source_belongs_to_prepare(tree: Path, params_text: str) -> None:
    assert appended(tree, params_text, "afdcd/data/sources/streets.py", "x = 1") == {"prepare"}
    assert appended(tree, params_text, "afdcd/data/sources/camvid.py", "x = 1") == set()


def test_plumbing_belongs_to_no_stage(tree: Path, params_text: str) -> None:
    for module in fingerprints.PLUMBING:
        path = module.replace(".", "/") + ".py"
        assert appended(tree, params_text, path, "x = 1") == set(), path


def test_training_code_leaves_export_and_reports_alone(tree: Path, params_text: str) -> None:
    changed = appended(tree, params_text, "afdcd/training/loop.py", "x = 1")
    assert {"train_teacher", "train_student", "distill/kd", "distill/afdcd"} <= changed
    assert not changed & {"prepare", "export", "reference", "report", "gate", "release", "complexity"}


def test_gates_leave_training_and_engines_alone(tree: Path, params_text: str) -> None:
    assert appended(tree, params_text, "deploy/gates.py", "x = 1") <= {"kit", "report", "gate", "release"}


def test_a_template_counts_with_its_package(tree: Path, params_text: str) -> None:
    template = "pipeline/reporting/template.html"
    assert appended(tree, params_text, template, "<p>") == {"report"}


def test_kernels_count_with_their_package(tree: Path, params_text: str) -> None:
    changed = appended(tree, params_text, "afdcd/native/contrast.h", "/* x */")
    assert {"train_teacher", "train_student", "distill/afdcd"} <= changed
    assert not changed & {"prepare", "export", "report", "gate", "release"}


def test_written_files_are_those_of_the_graph_and_stable(
    tree: Path, params_text: str, tmp_path: Path
) -> None:
    parsed = params.parse(params_text)
    folder = tmp_path / "fingerprints"
    fingerprints.write(parsed, folder, tree)
    first = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.json")}
    (folder / "stale.json").write_text("{}", encoding="utf-8")
    fingerprints.write(parsed, folder, tree)
    assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.json")} == first
    assert {path.with_suffix("").as_posix() for path in first} == set(fingerprints.stages(parsed))
    assert "pipeline.gate" in json.loads(first[Path("gate.json")])["modules"]
