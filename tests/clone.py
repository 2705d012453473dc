"""A throw-away copy of the project where dvc may do anything, and edits of its params."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CODE = ("afdcd", "deploy", "pipeline", "conf", "data/raw/streets", "measurements")
FILES = (
    "dvc.yaml",
    "params.yaml",
    "pyproject.toml",
    ".gitignore",
    ".dvcignore",
    ".dvc/config",
    ".dvc/.gitignore",
)


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

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command there, with all that it prints in one pipe.

        No coverage there: it doubles the time of dvc and of every stage, whose code other tests run.
        """
        own = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=own | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.folder), "PATH": path},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *command: str, expect: int | None = 0) -> str:
        """Run a command there; returns what it printed, fails the test on another exit status."""
        process = self.start(*command)
        printed, _ = process.communicate()
        if expect is not None:
            assert (process.returncode == 0) == (expect == 0), (
                f"{command} exited {process.returncode}\n{printed}"
            )
        return printed

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
