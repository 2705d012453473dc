"""What the pipeline's tests share: the project's root, its params, edits of them, and a throw-away clone."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CODE = ("afdcd", "deploy", "pipeline", "conf", "data/raw/streets")
FILES = (
    "dvc.yaml",
    "params.yaml",
    "pyproject.toml",
    ".gitignore",
    ".dvcignore",
    ".dvc/config",
    ".dvc/.gitignore",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long chain first: with several workers the rest fills the time beside it."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def params_text() -> str:
    return (ROOT / "params.yaml").read_text(encoding="utf-8")


def changed(values: dict[str, Any], edits: dict[str, Any]) -> dict[str, Any]:
    """A copy with the values at dotted keys replaced; a value of ... removes the key."""
    result = copy.deepcopy(values)
    for dotted, value in edits.items():
        *above, last = dotted.split(".")
        place = result
        for part in above:
            place = place[part]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return result


@pytest.fixture
def edited(params_text: str) -> Callable[[dict[str, Any]], str]:
    """params.yaml's text with edits at dotted keys."""
    return lambda edits: yaml.safe_dump(changed(yaml.safe_load(params_text), edits), sort_keys=False)


@pytest.fixture
def project(tmp_path: Path, params_text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml and the data root, as the working folder: enough for load and check."""
    (tmp_path / "params.yaml").write_text(params_text, encoding="utf-8")
    (tmp_path / "data/raw/streets").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Clone:
    """A copy of the working tree as a git repository of its own, where dvc may do anything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in CODE:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.tmp"))
        for name in FILES:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        self.run("git", "init", "-q")
        self.commit()

    def commit(self) -> None:
        """Commit all that git does not ignore."""
        self.run("git", "add", ".")
        self.run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "state")

    def run(self, *command: str, expect: int | None = 0) -> str:
        """Run a command there; returns what it printed, fails the test on another exit status."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.folder)}
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if expect is not None:
            assert (done.returncode == 0) == (expect == 0), (
                f"{command} exited {done.returncode}\n{done.stdout}"
            )
        return done.stdout

    def python(self, *arguments: str, expect: int | None = 0) -> str:
        """Run a module of the clone."""
        return self.run("python", "-m", *arguments, expect=expect)

    def repro(self, *arguments: str, expect: int | None = 0) -> str:
        """Run dvc repro."""
        return self.run("dvc", "repro", *arguments, expect=expect)

    def read(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def edit(self, name: str, change: Callable[[str], str]) -> None:
        """Rewrite one file; the change must change something."""
        before = self.read(name)
        after = change(before)
        assert after != before, f"the edit of {name} changes nothing"
        (self.folder / name).write_text(after, encoding="utf-8")

    def set(self, edits: dict[str, Any]) -> None:
        """Change values of params.yaml by dotted keys."""
        self.edit(
            "params.yaml", lambda text: yaml.safe_dump(changed(yaml.safe_load(text), edits), sort_keys=False)
        )


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path / "clone")
