"""What this machine can build and run, said without importing an engine and without touching CUDA early."""

from __future__ import annotations

import ctypes
from importlib.util import find_spec

from afdcd.errors import UserError
from afdcd.plugins import nearest
from deploy.config import TargetConfig
from deploy.sessions import BACKENDS

PRECISIONS: dict[str, tuple[str, ...]] = {"onnxruntime": ("fp32", "int8"), "pytorch": ("fp32",)}
"""What is worth running: on a CPU, ONNX Runtime computes fp16 in fp32 and has no bf16 convolution."""

GPU_BACKENDS = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}


def capability(backend: str, precision: str) -> str | None:
    """Why this machine cannot build and run a target, as the rest of a sentence; None if it can."""
    if backend in GPU_BACKENDS:
        return _gpu(backend)
    if backend not in BACKENDS:
        return f"names the unknown backend {backend!r}; {nearest(backend, [*BACKENDS, *GPU_BACKENDS])}"
    if precision not in PRECISIONS[backend]:
        possible = " or ".join(PRECISIONS[backend])
        return (
            f"asks {backend} for {precision}, which it does not run, or not faster, on a CPU; take {possible}"
        )
    package = {"pytorch": "torch"}.get(backend, backend)
    if find_spec(package) is None:
        return f"needs the package {package}, which is not installed; pip install {package}"
    return None


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


def _gpu(backend: str) -> str:
    library = GPU_BACKENDS[backend]
    if not nvidia_driver():
        return (
            f"needs an NVIDIA GPU with a driver (libcuda.so.1 with cuInit) and {library}; "
            "this machine has none; remove it from deploy.targets or measure on such a machine"
        )
    return (
        f"needs {library}; this machine has a GPU, but the backend {backend} is not part of this version; "
        "remove it from deploy.targets"
    )
