from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.provenance import git_state, revisions


def git(*arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments], check=True)


def test_only_changed_sources_make_a_commit_dirty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert git_state() is None
    git("init", "-q")
    assert git_state() is None
    for name in ("params.yaml", "dvc.lock", "reports/metrics.json"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("one")
    git("add", ".")
    git("commit", "-qm", "first")
    state = git_state()
    assert state is not None and len(state["commit"]) == 40 and state["dirty"] is False
    Path("dvc.lock").write_text("two")
    Path("reports/metrics.json").write_text("two")
    Path("untracked").write_text("new")
    assert git_state() == state
    Path("params.yaml").write_text("two")
    assert git_state() == state | {"dirty": True}


def test_the_hashes_of_dvc_are_those_of_the_outputs_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = [Path("data/prepared"), Path("models/trained/teacher")]
    assert revisions(wanted) is None
    Path("dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  probe:\n    cmd: x\n  prepare:\n    cmd: y\n    outs:\n"
        "    - {path: data/prepared, hash: md5, md5: abc.dir, size: 3}\n"
        "    - {path: reports/other.json, hash: md5, md5: def}\n"
    )
    assert revisions(wanted) == {"data/prepared": "md5:abc.dir"}
    for text in ("", "- no mapping", "stages: {"):
        Path("dvc.lock").write_text(text)
        assert revisions(wanted) is None
