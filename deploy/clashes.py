"""Installed packages that do not go together, found in their metadata; no engine is imported."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from ctypes.util import find_library
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from deploy.config import Config
from deploy.sessions.capability import DISTRIBUTIONS, TENSORRT_VERSIONS, nvidia_driver, version_of

ORT_PACKAGES = (
    *("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino"),
    *("onnxruntime-qnn", "onnxruntime-rocm", "onnxruntime-training"),
)
"""Distributions that all bring the module onnxruntime, and overwrite each other's files."""

NEEDY = ("onnx", *ORT_PACKAGES, "openvino", "nncf")
"""Libraries whose own requirements are held against what is installed."""

FOR_CUDA_12 = "onnxruntime-gpu==1.26.0"
"""One that is built for CUDA 12, as its metadata tells; 1.31 is for 13."""

_RUNTIME = re.compile(r"nvidia-cuda-runtime(?:-cu(\d+))?")


class Clash(Config):
    """Two things that do not go together.

    Attributes:
        versions: of both; a thing that is not there has none.
        says: what the clash does.
        remedy: the command that ends it.
    """

    versions: dict[str, str | None]
    says: str
    remedy: str

    def sentence(self) -> str:
        """The clash for people."""
        return f"{self.says}; {self.remedy}"


def clashes() -> list[Clash]:
    """All clashes of this environment."""
    return [*_same_files(), *_requirements(), *_tensorrt(), *_pycuda(), *_cuda()]


def libraries() -> dict[str, dict[str, str]]:
    """Backend -> its installed distributions with their versions; empty where none is installed."""
    return {
        backend: {name: version for name in names if (version := version_of(name)) is not None}
        for backend, names in DISTRIBUTIONS.items()
    }


def _same_files() -> Iterator[Clash]:
    found = {name: version for name in ORT_PACKAGES if (version := version_of(name)) is not None}
    if len(found) < 2:
        return
    wanted = next((name for name in found if name != "onnxruntime"), "onnxruntime")
    if wanted == "onnxruntime-gpu" and "onnxruntime" in found and not nvidia_driver():
        wanted = "onnxruntime"
    shown = " and ".join(f"{name} {version}" for name, version in found.items())
    yield Clash(
        versions=dict(found),
        says=f"{shown} are installed together and overwrite each other's files, so that either may run",
        remedy=f"pip uninstall -y {' '.join(found)} && pip install {wanted}",
    )


def _requirements() -> Iterator[Clash]:
    """What a library asks for and another version of it is installed; protobuf and numpy, most often."""
    for library in NEEDY:
        version = version_of(library)
        if version is None:
            continue
        for need in _needs(library):
            found = version_of(need.name)
            if found is None or need.specifier.contains(found, prereleases=True):
                continue
            yield Clash(
                versions={library: version, need.name: found},
                says=f"{library} {version} needs {need.name}{need.specifier}, installed is {found}",
                remedy=f"pip install '{need.name}{need.specifier}'",
            )


def _needs(library: str, *, extra: str = "") -> Iterator[Requirement]:
    """The requirements of an installed library that hold on this system, with those of an extra."""
    for text in metadata.requires(library) or ():
        try:
            need = Requirement(text)
        except InvalidRequirement:  # of a foreign package; pip has its own opinion of it
            continue
        if need.marker is None or need.marker.evaluate({"extra": extra}):
            yield need


def _tensorrt() -> Iterator[Clash]:
    for backend, supported in TENSORRT_VERSIONS.items():
        for name in DISTRIBUTIONS[backend]:
            version = version_of(name)
            if version is None or (reason := supported.refusal(version)) is None:
                continue
            yield Clash(
                versions={name: version, "supported": supported.words()},
                says=f"{name} {version} {reason}",
                remedy=f"pip install {supported.pip}",
            )
            break  # one library, under the names of its parts


def _pycuda() -> Iterator[Clash]:
    version = version_of("pycuda")
    if version is not None and not nvidia_driver():
        yield Clash(
            versions={"pycuda": version, "NVIDIA driver": None},
            says=f"pycuda {version} is installed and no NVIDIA driver answers, so that importing it fails",
            remedy="install the driver until nvidia-smi works, or pip uninstall -y pycuda",
        )


def _cuda() -> Iterator[Clash]:
    """onnxruntime-gpu is built for one major of CUDA, which its own extra `cuda` tells."""
    version = version_of("onnxruntime-gpu")
    wanted = None if version is None else _wanted_cuda()
    if version is None or wanted is None:
        return
    runtimes = _runtimes()
    if runtimes and wanted not in {_major(found) for found in runtimes.values()}:
        shown = " and ".join(f"{name} {found}" for name, found in runtimes.items())
        yield Clash(
            versions={"onnxruntime-gpu": version, **runtimes},
            says=f"onnxruntime-gpu {version} needs CUDA {wanted}, installed is {shown}",
            remedy=f"pip install 'onnxruntime-gpu[cuda,cudnn]=={version}'",
        )
    driver = driver_cuda()
    if driver is not None and _major(driver) < wanted:
        yield Clash(
            versions={"onnxruntime-gpu": version, "CUDA of the driver": driver},
            says=f"onnxruntime-gpu {version} needs CUDA {wanted}, the driver's is {driver}",
            remedy="install a newer NVIDIA driver"
            + (f", or pip install {FOR_CUDA_12}, which takes CUDA 12" if _major(driver) == 12 else ""),
        )


def _wanted_cuda() -> int | None:
    """The major of CUDA that onnxruntime-gpu is built for; None where a version does not tell."""
    for need in _needs("onnxruntime-gpu", extra="cuda"):
        if (matched := _RUNTIME.fullmatch(need.name)) is None:
            continue
        # Up to CUDA 12 the major is in the package's name, later in its version.
        numbers = matched[1] or next((_major(one.version) for one in need.specifier), None)
        return None if numbers is None else int(numbers)
    return None


def _runtimes() -> dict[str, str]:
    """CUDA's runtime libraries here: of packages, and the one that the system's loader finds."""
    names = ("nvidia-cuda-runtime", *(f"nvidia-cuda-runtime-cu{major}" for major in (11, 12, 13)))
    found = {name: version for name in names if (version := version_of(name)) is not None}
    library = find_library("cudart")
    major = None if library is None else re.search(r"\.so\.(\d+)", library)
    return {**found, **({str(library): major[1]} if major else {})}


def driver_cuda() -> str | None:
    """The newest CUDA that the NVIDIA driver speaks, like 13.0; None without a driver."""
    if not nvidia_driver():
        return None
    number = ctypes.c_int()
    if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number)) != 0:
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _major(version: str) -> int:
    try:
        return Version(version).major
    except InvalidVersion:
        return 0
