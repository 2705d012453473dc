"""Where a study runs: a clone of the project at one commit, so that edits meanwhile change nothing in it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from afdcd.errors import UserError
from afdcd.files import atomic_folder, read_json
from pipeline import paths, strict_yaml
from pipeline.studies.definition import Study, load

STUDIES = Path(".studies")
CODE = ("afdcd", "deploy", "pipeline", "conf", "data/raw", "dvc.yaml")
"""What decides a study's numbers."""
_MODULES = (
    "import afdcd, deploy, pipeline; print(*(m.__path__[0] for m in (afdcd, deploy, pipeline)), sep='\\n')"
)


class Workspace:
    """One study's clone of the project, and the places in it.

    Attributes:
        name: the study's.
        folder: the clone's root.
    """

    def __init__(self, name: str, root: Path = Path()) -> None:
        self.name = name
        self.root = root.resolve()
        self.folder = self.root / STUDIES / name
        self.records = self.folder / "study"

    @property
    def costs(self) -> Path:
        """What a training step costs, by recipe."""
        return self.records / "costs.json"

    @property
    def commit(self) -> str:
        """The commit that runs here."""
        return _git(self.folder, "rev-parse", "HEAD")

    @property
    def study(self) -> Study:
        """The definition as of that commit."""
        return load(self.name, self.folder)

    def params(self) -> dict[str, Any]:
        """The settings here, untyped: a later version of the project may have changed the keys."""
        path = self.folder / paths.PARAMS
        return strict_yaml.parse(path.read_text(encoding="utf-8"), str(path))

    def card(self, model: str) -> dict[str, Any] | None:
        """The card of a trained network, None where it is not trained."""
        path = self.folder / paths.trained(model) / "model.json"
        return read_json(path) if path.exists() else None

    def environment(self, threads: int) -> dict[str, str]:
        """The environment of commands that run here: the same Python, and this folder's modules first."""
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
        return kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": str(self.folder),
            "OMP_NUM_THREADS": str(threads),
            "DVC_NO_ANALYTICS": "1",
        }

    def run(self, *command: str) -> str:
        """Run a short command here; returns what it printed.

        Raises:
            UserError: it failed; the message is its own last words.
        """
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment(1), capture_output=True, text=True, check=False
        )
        if done.returncode:
            words = (done.stderr.strip() or done.stdout.strip()).removeprefix("error: ")
            raise UserError(f"{' '.join(command[:3])} in {self.folder}: {words}")
        return done.stdout

    def require(self) -> None:
        """See that the study was begun.

        Raises:
            UserError: it was not, or there is none of that name.
        """
        if not (self.folder / paths.PARAMS).exists():
            load(self.name, self.root)
            raise UserError(f"the study {self.name} was not begun; python -m pipeline.study {self.name} does")

    def open(self, *, head: bool) -> bool:
        """Make the clone unless it is there; says whether it was made.

        Raises:
            UserError: the project is no git repository, its code has uncommitted changes and `head` does
                not say to leave them out, or commands here would run other modules than this folder's.
        """
        made = not self.folder.exists()
        if made:
            self._clone(head=head)
        places = self.run(sys.executable, "-c", _MODULES).split("\n")
        strange = [place for place in places if place and not Path(place).is_relative_to(self.folder)]
        if strange:
            raise UserError(
                f"Python in {self.folder} imports {strange[0]} instead of the modules there; "
                "unset what changes its search path"
            )
        return made

    def _clone(self, *, head: bool) -> None:
        top = _git(self.root, "rev-parse", "--show-toplevel")
        if Path(top).resolve() != self.root:
            raise UserError(f"{self.root} is not the root of its git repository, {top}; run the study there")
        load(self.name, self.root)
        changes = _git(self.root, "status", "--porcelain", "--", *CODE)
        if changes and not head:
            shown = "\n".join(changes.splitlines()[:8])
            raise UserError(
                f"a study runs what is committed, and these changes are not:\n{shown}\n"
                "commit them first, or pass --head to leave them out"
            )
        with atomic_folder(self.folder) as temporary:
            _git(self.root, "clone", "--quiet", "--no-checkout", ".", str(temporary))
            _git(temporary, "checkout", "--quiet", "--detach", _git(self.root, "rev-parse", "HEAD"))
            load(self.name, temporary)

    def link_raw_data(self) -> None:
        """Link data and weights that params name by path, and that git does not hold, from the project.

        Raises:
            UserError: they are not there either.
        """
        values = self.params()
        for name in (values["dataset"]["root"], values["teacher"]["checkpoint"]):
            if name is None or (self.folder / name).exists():
                continue
            if not (self.root / name).exists():
                raise UserError(f"{name} is not in {self.root}; put it there, then run the study again")
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).symlink_to((self.root / name).resolve())

    def drop_broken_lock(self) -> None:
        """Remove a dvc.lock that a killed DVC left half written; its run cache brings all stages back."""
        path = self.folder / "dvc.lock"
        try:
            whole = not path.exists() or "stages" in strict_yaml.parse(path.read_text("utf-8"), str(path))
        except UserError:
            whole = False
        if not whole:
            path.unlink()

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the workspace alone.

        Raises:
            UserError: another process runs this study.
        """
        self.records.mkdir(exist_ok=True)
        with (self.records / "lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another process runs the study {self.name}; --status and --write work beside it"
                ) from None
            yield


def _git(folder: Path, *arguments: str) -> str:
    """What git prints.

    Raises:
        UserError: it fails, or is not there.
    """
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
    except FileNotFoundError:
        raise UserError("git is missing; a study is a clone of the project: install it") from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"git {arguments[0]} in {folder}: {error.stderr.strip()}") from None
    return done.stdout.strip()
