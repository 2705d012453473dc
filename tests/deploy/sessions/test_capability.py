from __future__ import annotations

import ctypes
import subprocess
import sys
from typing import Any

import pytest

from afdcd.errors import UserError
from deploy.config import TargetConfig
from deploy.hardware import instructions
from deploy.sessions import capability as module
from deploy.sessions.capability import (
    BF16_INSTRUCTIONS,
    COMPILER,
    GPU_PRECISIONS,
    PRECISIONS,
    capability,
    check_target,
    nvidia_driver,
)


def _spec(backend: str, precision: str) -> TargetConfig:
    return TargetConfig.model_validate(
        {"backend": backend, "precision": precision, "where": "here", "threads": 1}
    )


@pytest.mark.parametrize("backend", PRECISIONS)
def test_what_is_listed_runs_here(backend: str) -> None:
    for precision in PRECISIONS[backend]:
        if precision == "bf16" and not set(BF16_INSTRUCTIONS) & set(instructions()):
            continue
        assert capability(backend, precision) is None


def test_tensorrt_without_a_gpu_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "nvidia_driver", lambda: False)
    expected = (
        "target trt_fp16 needs an NVIDIA GPU with a driver (libcuda.so.1 with cuInit) and TensorRT; "
        "this machine has none; remove it from deploy.targets or measure on such a machine"
    )
    with pytest.raises(UserError) as caught:
        check_target("trt_fp16", _spec("tensorrt", "fp16"))
    assert str(caught.value) == expected


def test_tensorrt_that_is_not_installed_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "nvidia_driver", lambda: True)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    for backend, remedy in (("tensorrt", "docs/tensorrt.md"), ("tensorrt_rtx", r"'.[trt-rtx]'")):
        reason = capability(backend, "fp16")
        assert reason is not None and reason.startswith(
            f"needs the package {backend}, which is not installed"
        )
        assert remedy in reason


@pytest.mark.parametrize(("found", "able"), [("pycuda", True), ("cuda.bindings", True), ("", False)])
def test_tensorrt_needs_a_library_that_moves_memory(
    monkeypatch: pytest.MonkeyPatch, found: str, able: bool
) -> None:
    monkeypatch.setattr(module, "nvidia_driver", lambda: True)
    monkeypatch.setattr(module, "find_spec", lambda name: "a spec" if name in ("tensorrt", found) else None)
    reason = capability("tensorrt", "fp16")
    assert (reason is None) is able
    assert able or "needs pycuda or cuda-python" in str(reason)


@pytest.mark.parametrize(("answer", "found"), [(0, True), (100, False), (None, False)])
def test_the_driver_is_asked_for_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, answer: int | None, found: bool
) -> None:
    class Driver:
        def __init__(self, name: str) -> None:
            assert name == "libcuda.so.1"
            if answer is None:
                raise OSError("cannot open shared object file")

        def cuInit(self, flags: int) -> int:  # noqa: N802 (the driver's name)
            assert flags == 0 and answer is not None
            return answer

    monkeypatch.setattr(ctypes, "CDLL", Driver)
    assert nvidia_driver() is found


@pytest.mark.parametrize(
    ("backend", "precision", "says"),
    [
        ("onnxrntime", "fp32", "did you mean 'onnxruntime'"),
        ("onnxruntime", "fp16", "take fp32 or int8"),
        ("onnxruntime", "bf16", "take fp32 or int8"),
        ("pytorch", "int8", "take fp32"),
        ("openvino", "fp16", "take fp32 or bf16 or int8"),
        ("onnxruntime_cuda", "int8", "on a GPU; take fp32 or fp16"),
    ],
)
def test_other_pairs_are_refused_with_what_is_possible(backend: str, precision: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_target("mine", _spec(backend, precision))


@pytest.mark.parametrize("backend", GPU_PRECISIONS)
def test_every_gpu_backend_asks_for_the_driver_first(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setattr(module, "nvidia_driver", lambda: False)
    for precision in GPU_PRECISIONS[backend]:
        reason = capability(backend, precision)
        assert reason is not None and "needs an NVIDIA GPU with a driver" in reason


def test_the_cpu_package_does_not_pass_for_the_one_with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "nvidia_driver", lambda: True)
    reason = capability("onnxruntime_cuda", "fp32")
    assert reason is not None and "needs the package onnxruntime-gpu" in reason and "ort-gpu" in reason
    monkeypatch.setattr(module.metadata, "version", lambda name: "1")
    assert capability("onnxruntime_cuda", "fp32") is None


@pytest.mark.parametrize("having", BF16_INSTRUCTIONS)
def test_bfloat16_needs_an_instruction_for_it(monkeypatch: pytest.MonkeyPatch, having: str) -> None:
    monkeypatch.setattr(module, "instructions", lambda: ["avx2", "fma", "avx512f"])
    reason = capability("openvino", "bf16")
    assert reason is not None and having in reason and "take fp32 or int8" in reason
    monkeypatch.setattr(module, "instructions", lambda: ["avx2", having])
    assert capability("openvino", "bf16") is None


def test_the_compiled_program_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    reason = capability("pytorch_compiled", "fp32")
    assert reason is not None and COMPILER in reason and "take the backend pytorch" in reason
    assert capability("pytorch", "fp32") is None


def test_openvino_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    reason = capability("openvino", "fp32")
    assert reason is not None and "pip install -e '.[openvino]'" in reason


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    reason: Any = capability("onnxruntime", "fp32")
    assert "onnxruntime, which is not installed" in reason


def test_asking_imports_no_engine() -> None:
    code = (
        "import sys; from deploy.sessions.capability import capability; capability('onnxruntime', 'int8'); "
        "assert not {'torch', 'onnxruntime', 'onnx', 'openvino'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
