"""An imaginary GPU with TensorRT on it, and bundles built there."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_gpu import FakeGpu, fake_cuda_runtime, fake_pycuda
from fake_tensorrt import fake_tensorrt

from deploy.build import build
from deploy.config import TargetConfig

SPEC = TargetConfig(backend="tensorrt", precision="fp32", where="here", threads=1)


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu()


@pytest.fixture(params=["pycuda", "cuda_python"])
def library(request: pytest.FixtureRequest) -> str:
    """The one that moves memory."""
    return str(request.param)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that answers."""
    for place in ("deploy.sessions.capability", "deploy.tensorrt.bindings", "deploy.tensorrt.memory"):
        monkeypatch.setattr(f"{place}.nvidia_driver", lambda: True)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Puts a library on the imaginary machine, and one version of TensorRT."""

    def put(gpu: FakeGpu, library: str, version: str = "11.4.0.106") -> Any:
        api = fake_tensorrt(gpu, version)
        monkeypatch.setitem(sys.modules, "tensorrt", api)
        monkeypatch.setitem(sys.modules, "pycuda.driver", fake_pycuda(gpu))
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake_cuda_runtime(gpu))
        for place in ("deploy.sessions.capability", "deploy.tensorrt.memory"):
            monkeypatch.setattr(f"{place}.memory_libraries", lambda: [library])
        monkeypatch.setattr("deploy.sessions.capability._missing", lambda package: None)
        return api

    return put


@pytest.fixture
def tensorrt(gpu: FakeGpu, library: str, driver: None, install: Callable[..., Any]) -> Any:
    """The module, on a machine with either library."""
    return install(gpu, library)


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a bundle is built once; it is the same whatever moves memory."""
    return tmp_path_factory.mktemp("imaginary") / "engines"


@pytest.fixture
def bundle(tmp_path: Path, engines: Path, request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """A bundle of the little network from the imaginary GPU, for this test alone."""

    def make(target: str) -> Path:
        if not (engines / target).is_dir():
            typed: Callable[[str], Path] = request.getfixturevalue("typed")
            source = typed("ort_cpu_fp32")
            build(source, engines / target, target=target, spec=SPEC, hardware={"cpu": "of a test"})
        shutil.copytree(engines, tmp_path / "engines")
        return tmp_path / "engines" / target

    return make
