"""What this machine can build and run, said without importing an engine and without touching CUDA early."""

from __future__ import annotations

import ctypes
import re
import shutil
import sys
from importlib import metadata
from importlib.util import find_spec
from typing import NamedTuple

from afdcd.errors import UserError
from afdcd.plugins import nearest
from deploy.config import TargetConfig
from deploy.hardware import instructions
from deploy.sessions import BACKENDS

PRECISIONS: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
    "pytorch": ("fp32",),
    "pytorch_compiled": ("fp32",),
}
"""What is worth running on a CPU: ONNX Runtime computes fp16 in fp32 there, and has no bf16 convolution."""

GPU_PRECISIONS: dict[str, tuple[str, ...]] = {
    "onnxruntime_cuda": ("fp32", "fp16"),
    "onnxruntime_tensorrt": ("fp32", "fp16", "int8"),
    "tensorrt": ("fp32", "fp16", "bf16", "int8"),
    "tensorrt_rtx": ("fp32", "fp16", "bf16", "int8"),
}
"""The same on an NVIDIA GPU."""

GPU_BACKENDS = {
    "onnxruntime_cuda": "ONNX Runtime with CUDA",
    "onnxruntime_tensorrt": "ONNX Runtime with TensorRT",
    "tensorrt": "TensorRT",
    "tensorrt_rtx": "TensorRT-RTX",
}

BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")
"""Without one of these (Intel and AMD, Intel, Arm) a CPU computes bfloat16 in float32 or by emulation."""

COMPILER = "clang++" if sys.platform == "darwin" else "g++"
"""The one that torch.compile calls."""

NO_DRIVER = "needs an NVIDIA GPU with a driver (libcuda.so.1 with cuInit); this machine has none"


class Package(NamedTuple):
    """What a backend imports, the distributions that bring it, and how to get it."""

    module: str
    distributions: tuple[str, ...]
    remedy: str


class Versions(NamedTuple):
    """The versions of a library that the code speaks: the first, and the first that is not known."""

    title: str
    first: tuple[int, int]
    beyond: tuple[int, int]
    pip: str

    def words(self) -> str:
        """For people: `10.12 to before 12.0`."""
        return f"{'.'.join(map(str, self.first))} to before {'.'.join(map(str, self.beyond))}"

    def refusal(self, version: str) -> str | None:
        """Why a version will not do, as the rest of a sentence; None if it does."""
        numbers = re.match(r"(\d+)\.(\d+)", version)
        found = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
        if self.first <= found < self.beyond:
            return None
        return f"is not supported, {self.title} {self.words()} is"


TENSORRT_VERSIONS = {
    "tensorrt": Versions("TensorRT", (10, 12), (12, 0), "'tensorrt-cu13>=10.14,<12'"),
    "tensorrt_rtx": Versions("TensorRT-RTX", (1, 7), (2, 0), "'tensorrt-rtx>=1.7,<2'"),
}
"""By the name of the module that is imported."""

DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino", "nncf"),
    "pytorch": ("torch",),
    "pytorch_compiled": ("torch",),
    "onnxruntime_cuda": ("onnxruntime-gpu",),
    "onnxruntime_tensorrt": ("onnxruntime-gpu",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"),
    "tensorrt_rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}
"""Backend -> the distributions that may hold its library; it can also come without any."""

PACKAGES = {
    "onnxruntime": Package("onnxruntime", (), "pip install onnxruntime"),
    "openvino": Package("openvino", (), "pip install -e '.[openvino]'"),
    "pytorch": Package("torch", (), "pip install torch"),
    "pytorch_compiled": Package("torch", (), "pip install torch"),
    # The package of the same module without GPU would do for an import and for nothing else.
    **dict.fromkeys(
        ("onnxruntime_cuda", "onnxruntime_tensorrt"),
        Package(
            "onnxruntime",
            ("onnxruntime-gpu",),
            "pip uninstall onnxruntime, then pip install -e '.[ort-gpu]'",
        ),
    ),
    "tensorrt": Package("tensorrt", (), "docs/tensorrt.md says where it comes from"),
    "tensorrt_rtx": Package("tensorrt_rtx", (), "pip install -e '.[trt-rtx]'"),
}
"""Backends of this version."""


def capability(backend: str, precision: str) -> str | None:
    """Why this machine cannot build and run a target, as the rest of a sentence; None if it can."""
    if (impossible := _impossible(backend, precision)) is not None:
        return impossible
    if backend in GPU_BACKENDS and not nvidia_driver():
        return (
            f"needs an NVIDIA GPU with a driver (libcuda.so.1 with cuInit) and {GPU_BACKENDS[backend]}; "
            "this machine has none; remove it from deploy.targets or measure on such a machine"
        )
    if backend not in BACKENDS or backend not in PACKAGES:
        return (
            f"needs {GPU_BACKENDS[backend]}; this machine has a GPU, but the backend {backend} is not part "
            "of this version; remove it from deploy.targets"
        )
    return _missing(PACKAGES[backend]) or _lacking(backend, precision)


def _impossible(backend: str, precision: str) -> str | None:
    """Why no machine runs a target, as the rest of a sentence."""
    possible = {**PRECISIONS, **GPU_PRECISIONS}.get(backend)
    if possible is None:
        return f"names the unknown backend {backend!r}; {nearest(backend, [*PRECISIONS, *GPU_PRECISIONS])}"
    if precision in possible:
        return None
    where = "a GPU" if backend in GPU_PRECISIONS else "a CPU"
    return (
        f"asks {backend} for {precision}, which it does not run, or not faster, on {where}; "
        f"take {' or '.join(possible)}"
    )


def check_backend(name: str, spec: TargetConfig) -> None:
    """Refuse a target that no machine runs; what another device has is not asked.

    Raises:
        UserError: the backend is unknown, or does not run the precision.
    """
    reason = _impossible(spec.backend, spec.precision)
    if reason is not None:
        raise UserError(f"target {name} {reason}")


def check_target(name: str, spec: TargetConfig) -> None:
    """Refuse a target that this machine cannot build and run.

    Raises:
        UserError: with what is missing and what to do.
    """
    reason = capability(spec.backend, spec.precision)
    if reason is not None:
        raise UserError(f"target {name} {reason}")


def nvidia_driver() -> bool:
    """Whether an NVIDIA driver with a GPU answers.

    Anything of TensorRT or CUDA must ask this first: without a driver some calls end the interpreter.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return int(driver.cuInit(0)) == 0


def no_compiler() -> str | None:
    """That torch.compile has no compiler here, as the rest of a sentence; None if it has."""
    if shutil.which(COMPILER) is not None:
        return None
    return (
        f"needs the C++ compiler {COMPILER}, which is not on the path; install it "
        "(on Debian: apt-get install g++), or take the backend pytorch"
    )


def _missing(package: Package) -> str | None:
    """The package that is not installed, as the rest of a sentence."""
    if find_spec(package.module) is None:
        return f"needs the package {package.module}, which is not installed; {package.remedy}"
    if package.distributions and all(version_of(name) is None for name in package.distributions):
        wanted = " or ".join(package.distributions)
        return f"needs the package {wanted}, which is not installed; {package.remedy}"
    return None


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution, without importing it; None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def memory_libraries() -> list[str]:
    """Names of the installed libraries that can move memory of a GPU, the one that will serve first.

    PyTorch brings cuda-python along, pycuda is there only by choice: so it goes first.
    """
    return [name for name, spec in (("pycuda", "pycuda"), ("cuda_python", "cuda.bindings")) if _there(spec)]


def _there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # find_spec imports the parent of a dotted name
        return False


def _lacking(backend: str, precision: str) -> str | None:
    """What a backend misses beside its package, as the rest of a sentence."""
    for name in DISTRIBUTIONS[backend] if backend in TENSORRT_VERSIONS else ():
        version = version_of(name)
        supported = TENSORRT_VERSIONS[backend]
        if version is not None and (refusal := supported.refusal(version)) is not None:
            return f"finds {name} {version}, which {refusal}; {PACKAGES[backend].remedy}"
    if backend in ("tensorrt", "tensorrt_rtx") and not memory_libraries():
        return (
            f"needs pycuda or cuda-python besides {backend}, and neither is installed; "
            "pip install -e '.[pycuda]', or pip install cuda-python"
        )
    if (backend, precision) == ("openvino", "bf16") and not set(BF16_INSTRUCTIONS) & set(instructions()):
        return (
            f"asks openvino for bf16, for which a CPU needs one of {', '.join(BF16_INSTRUCTIONS)}; this one "
            "has none and would be no faster than in fp32; take fp32 or int8"
        )
    return no_compiler() if backend == "pytorch_compiled" else None
