"""NVIDIA's Python bindings: found when they are needed, asked for what they have, never guessed by number.

TensorRT 11 renumbered its flags (STRONGLY_TYPED was bit 1 and is bit 0), so names are looked up on what is
installed. Networks are strongly typed in every version: the graph alone decides the precision.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

from afdcd.errors import UserError
from afdcd.plugins import nearest
from deploy.sessions.capability import NO_DRIVER, TENSORRT_VERSIONS, Versions, nvidia_driver


class Package(NamedTuple):
    """One of NVIDIA's two libraries: the versions that will do, and where it comes from."""

    versions: Versions
    remedy: str

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.versions.title


PACKAGES: dict[str, Package] = {
    "tensorrt": Package(
        TENSORRT_VERSIONS["tensorrt"],
        "install it from NVIDIA's package index as docs/tensorrt.md says (on a Jetson it comes with JetPack)",
    ),
    "tensorrt_rtx": Package(TENSORRT_VERSIONS["tensorrt_rtx"], "pip install -e '.[trt-rtx]'"),
}
"""By the name of the module that is imported."""


class Bindings(NamedTuple):
    """An imported library.

    Attributes:
        package: the module's name, a key of `PACKAGES`.
        version: as the library gives it.
        api: the module.
    """

    package: str
    version: str
    api: Any

    def __str__(self) -> str:
        return f"{PACKAGES[self.package].title} {self.version}"

    def member(self, enum: str, name: str) -> Any:
        """A value of an enumeration by its name.

        Raises:
            UserError: this version lacks it.
        """
        members = getattr(getattr(self.api, enum, None), "__members__", {})
        if name not in members:
            package = PACKAGES[self.package]
            oldest = ".".join(map(str, package.versions.first))
            raise UserError(
                f"{self} has no {enum}.{name}, which is needed; "
                f"take a version from {oldest} on: {package.remedy}"
            )
        return members[name]


def load(package: str) -> Bindings:
    """Import a library for building; nothing is asked of a GPU.

    Raises:
        UserError: it is not installed, its libraries do not load, or its version is none of those known.
    """
    if package not in PACKAGES:
        raise UserError(f"unknown TensorRT package {package!r}; {nearest(package, PACKAGES)}")
    known = PACKAGES[package]
    try:
        api = importlib.import_module(package)
    except (ImportError, OSError) as error:
        raise UserError(f"{known.title} cannot be loaded ({error}); {known.remedy}") from error
    found = Bindings(package, str(getattr(api, "__version__", "")), api)
    if (refusal := known.versions.refusal(found.version)) is not None:
        raise UserError(f"{found} {refusal}: {known.remedy}")
    return found


def load_for_gpu(package: str) -> Bindings:
    """Import a library whose calls will touch CUDA; the driver is asked first.

    Without a driver some of these calls do not raise but end the interpreter.

    Raises:
        UserError: no driver answers, or as `load`.
    """
    if not nvidia_driver():
        title = PACKAGES[package].title if package in PACKAGES else package
        raise UserError(f"{title} {NO_DRIVER}; measure on a machine that has one, see docs/tensorrt.md")
    return load(package)
