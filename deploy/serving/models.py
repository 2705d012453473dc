"""Models by name and version: verified, opened, replaced and brought back while requests run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from afdcd.errors import UserError
from deploy.bundle import MANIFEST, Contract, Manifest, manifest_sha256, verify
from deploy.serving.confidence import Watch
from deploy.serving.engine import Engine
from deploy.serving.metrics import Tally
from deploy.serving.options import Scheduling
from deploy.serving.refusal import Refusal, Unknown
from deploy.sessions import Session, bundle_reader, open_backend

Plan = Callable[[Manifest], Scheduling]
CLOSING_SECONDS = 60.0


class Version(NamedTuple):
    """One opened bundle of a model."""

    model: str
    number: str
    manifest: Manifest
    digest: str
    engine: Engine
    tally: Tally

    @property
    def contract(self) -> Contract:
        """What the engine takes and gives."""
        return self.manifest.contract

    def retire(self) -> None:
        """Finish its work and free it."""
        self.engine.close(CLOSING_SECONDS)
        self.tally.forget()


class Models:
    """All models of a server. Reading is free of locks: every change puts a new tuple in place.

    A model keeps the version it serves and the one before it; anything older is closed when its work is done.
    """

    def __init__(self, bundles: Sequence[Path], plan: Plan) -> None:
        self._plan = plan
        self._changing = threading.Lock()
        self._paths: dict[str, Path] = {}
        self._kept: dict[str, tuple[Version, ...]] = {}
        self._made: dict[str, int] = {}
        for path in bundles:
            self._add(path)

    def names(self) -> list[str]:
        """Of all models."""
        return list(self._kept)

    def versions(self, name: str) -> tuple[Version, ...]:
        """The versions of a model, the one that answers by default last.

        Raises:
            Unknown: there is no such model.
        """
        if name not in self._kept:
            raise Unknown(f"there is no model {name!r}; this server has {', '.join(self._kept)}")
        return self._kept[name]

    def get(self, name: str, number: str = "") -> Version:
        """A version of a model, the default one if no number is given.

        Raises:
            Unknown: there is no such model or version.
        """
        versions = self.versions(name)
        if not number:
            return versions[-1]
        for version in versions:
            if version.number == number:
                return version
        known = ", ".join(version.number for version in versions)
        raise Unknown(f"{name} has no version {number!r}, only {known}")

    def reload(self, name: str) -> bool:
        """Open the model's folder again if its manifest changed; the old version answers until then.

        Raises:
            Refusal: there is no such model, or the new bundle is damaged; the old version goes on.
        """
        with self._changing:
            current = self.versions(name)[-1]
            try:
                manifest = verify(self._paths[name])
                if manifest_sha256(manifest) == current.digest:
                    return False
                self._put(name, current, self._open(name, manifest))
            except UserError as error:
                raise Refusal(f"{name} was not loaded again: {error}") from error
        return True

    def roll_back(self, name: str) -> None:
        """Let the version before answer again; rolling back twice undoes it.

        Raises:
            Refusal: there is no such model, or no version before.
        """
        with self._changing:
            versions = self.versions(name)
            if len(versions) < 2:
                raise Refusal(f"{name} has no version before {versions[-1].number}")
            self._kept[name] = versions[::-1]

    def close(self) -> None:
        """Finish all work and free every engine."""
        for versions in self._kept.values():
            for version in versions:
                version.engine.close(CLOSING_SECONDS)

    def _add(self, path: Path) -> None:
        manifest = verify(path)
        name = manifest.model
        if name in self._kept:
            name = f"{manifest.model}.{manifest.target}"
        if name in self._kept:
            raise UserError(f"{path}: another bundle is {manifest.model} on {manifest.target}; give one")
        self._paths[name] = path
        self._kept[name] = (self._open(name, manifest),)

    def _open(self, name: str, manifest: Manifest) -> Version:
        scheduling = self._plan(manifest)
        path = self._paths[name]

        def open_one() -> Session:
            return open_backend(
                manifest.backend,
                manifest.contract,
                bundle_reader(path, manifest),
                threads=scheduling.threads,
                precision=manifest.precision,
            )

        number = str(self._made.get(name, 0) + 1)
        self._made[name] = int(number)
        tally = Tally(name, number)
        watch = Watch(scheduling.watch, scheduling.sure, tally.confidence) if scheduling.watch else None
        engine = Engine(open_one, scheduling, watch)
        tally.watch(lambda: engine.waiting)
        return Version(name, number, manifest, manifest_sha256(manifest), engine, tally)

    def _put(self, name: str, current: Version, new: Version) -> None:
        old = self._kept[name]
        self._kept[name] = (current, new)
        for version in old:
            if version is not current:
                threading.Thread(target=version.retire, daemon=True).start()


def find_bundles(paths: Sequence[Path]) -> list[Path]:
    """The bundles that the given folders are, or hold at any depth (a release holds <model>/<target>).

    Raises:
        UserError: a folder is missing or holds no bundle.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is no folder; give bundles, or a release")
        manifests = [path / MANIFEST] if (path / MANIFEST).is_file() else sorted(path.rglob(MANIFEST))
        if not manifests:
            raise UserError(f"{path} holds no bundle ({MANIFEST}); give bundles, or a release")
        found += [manifest.parent for manifest in manifests]
    return found
