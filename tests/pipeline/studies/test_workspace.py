from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from clone import ROOT

from afdcd.errors import UserError
from pipeline.studies.workspace import Workspace


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A git repository with a study and no code."""
    folder = tmp_path / "project"
    for name in ("conf/study/smoke.yaml", "conf/recipe/kd.yaml", "conf/recipe/idd.yaml", "params.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    for package in ("afdcd", "deploy", "pipeline"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").touch()
    (folder / ".gitignore").write_text("/.studies/\n", encoding="utf-8")
    git(folder, "init", "-q")
    commit(folder)
    return folder


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    return subprocess.run(
        ["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(folder: Path) -> None:
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "state")


def test_the_code_stays_that_of_the_commit_it_was_begun_with(project: Path) -> None:
    workspace = Workspace("smoke", project)
    assert workspace.open(head=False)
    began = git(project, "rev-parse", "HEAD")
    (project / "conf/study/smoke.yaml").write_text("about: nothing", encoding="utf-8")
    commit(project)
    assert not Workspace("smoke", project).open(head=False)
    assert workspace.commit == began != git(project, "rev-parse", "HEAD")
    assert workspace.study.recipes == ["kd", "idd"]


def test_uncommitted_code_is_refused_or_left_out(project: Path) -> None:
    (project / "pipeline/new.py").write_text("", encoding="utf-8")
    (project / "notes.md").write_text("no code", encoding="utf-8")
    with pytest.raises(UserError, match="pipeline/new.py") as refused:
        Workspace("smoke", project).open(head=False)
    assert "notes.md" not in str(refused.value) and not (project / ".studies").exists()
    assert Workspace("smoke", project).open(head=True)
    assert not (project / ".studies/smoke/pipeline/new.py").exists()


def test_modules_of_another_place_are_refused(project: Path) -> None:
    workspace = Workspace("smoke", project)
    git(project, "rm", "-rq", "deploy")
    commit(project)
    # The installed project's modules would come in: exactly what must not happen.
    with pytest.raises(UserError, match="imports .*deploy instead of|No module named 'deploy'"):
        workspace.open(head=False)


def test_a_folder_inside_a_repository_is_no_project(project: Path) -> None:
    with pytest.raises(UserError, match="is not the root of its git repository"):
        Workspace("smoke", project / "conf").open(head=False)


def test_data_that_git_does_not_hold_are_linked(project: Path) -> None:
    workspace = Workspace("smoke", project)
    workspace.open(head=False)
    with pytest.raises(UserError, match="data/raw/streets is not in"):
        workspace.link_raw_data()
    (project / "data/raw/streets").mkdir(parents=True)
    (project / "data/raw/streets/image.png").write_bytes(b"pixels")
    workspace.link_raw_data()
    workspace.link_raw_data()
    assert (workspace.folder / "data/raw/streets/image.png").read_bytes() == b"pixels"


def test_a_second_process_is_refused(project: Path) -> None:
    workspace = Workspace("smoke", project)
    workspace.open(head=False)
    with (
        workspace.owned(),
        pytest.raises(UserError, match="another process runs the study smoke"),
        Workspace("smoke", project).owned(),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "stays"),
    [("schema: '2.0'\nstages: {}\n", True), ("", False), ("stages:\n  a: {cmd", False)],
)
def test_a_half_written_lock_file_is_dropped(project: Path, text: str, stays: bool) -> None:
    workspace = Workspace("smoke", project)
    workspace.open(head=False)
    workspace.drop_broken_lock()
    (workspace.folder / "dvc.lock").write_text(text, encoding="utf-8")
    workspace.drop_broken_lock()
    assert (workspace.folder / "dvc.lock").exists() is stays
