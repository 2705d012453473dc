from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from importlib import metadata
from typing import Any

import pytest

from deploy import clashes as module
from deploy.__main__ import main
from deploy.sessions import capability

Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes the metadata of this environment say that these distributions, and no others, are installed."""

    def fake(
        versions: dict[str, str],
        requires: dict[str, list[str]] | None = None,
        *,
        driver: str | None = None,
        cudart: str | None = None,
    ) -> None:
        def version(name: str) -> str:
            if name not in versions:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(metadata, "version", version)
        monkeypatch.setattr(metadata, "requires", lambda name: (requires or {}).get(name))
        for place in (module, capability):
            monkeypatch.setattr(place, "nvidia_driver", lambda: driver is not None)
        monkeypatch.setattr(module, "driver_cuda", lambda: driver)
        monkeypatch.setattr(module, "find_library", lambda name: cudart)

    return fake


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The clashes that doctor's JSON lists; its table must say the same."""
    main(["doctor", "--json"])
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["clashes"]
    main(["doctor"])
    shown = " ".join(capsys.readouterr().out.split())
    assert ("no clash" in shown) is not bool(found)
    for clash in found:
        assert f"warning: {clash['says']}; {clash['remedy']}" in shown
    return found


@pytest.mark.parametrize(("driver", "kept"), [(None, "onnxruntime"), ("13.0", "onnxruntime-gpu")])
def test_two_onnxruntimes_overwrite_each_other(
    install: Install, capsys: pytest.CaptureFixture[str], driver: str | None, kept: str
) -> None:
    install({"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.30.0"}, driver=driver)
    (clash,) = told(capsys)
    assert clash["versions"] == {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.30.0"}
    assert "onnxruntime 1.31.1 and onnxruntime-gpu 1.30.0" in clash["says"]
    assert clash["remedy"] == f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install {kept}"


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-gpu"])
def test_one_onnxruntime_is_no_clash(install: Install, capsys: pytest.CaptureFixture[str], name: str) -> None:
    install({name: "1.31.1"})
    assert told(capsys) == []


def test_a_protobuf_too_old_for_onnx(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    needs = {"onnx": ["numpy>=1.23.2", "protobuf>=4.25.1", 'parameterized; extra == "reference"', "=broken"]}
    install({"onnx": "1.23.2", "protobuf": "3.20.3", "numpy": "2.4.6", "parameterized": "0.1"}, needs)
    (clash,) = told(capsys)
    assert clash == {
        "versions": {"onnx": "1.23.2", "protobuf": "3.20.3"},
        "says": "onnx 1.23.2 needs protobuf>=4.25.1, installed is 3.20.3",
        "remedy": "pip install 'protobuf>=4.25.1'",
    }
    install({"onnx": "1.23.2", "protobuf": "6.33.6", "numpy": "2.4.6"}, needs)
    assert told(capsys) == []


def test_a_numpy_too_new_for_openvino(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install({"openvino": "2024.6", "numpy": "2.4.6"}, {"openvino": ["numpy<2.2,>=1.16.6", "absent>=3"]})
    (clash,) = told(capsys)
    assert clash["versions"] == {"openvino": "2024.6", "numpy": "2.4.6"}
    assert clash["remedy"] == "pip install 'numpy<2.2,>=1.16.6'"


@pytest.mark.parametrize(
    ("versions", "refused"),
    [
        ({"tensorrt": "10.11.0.33"}, "tensorrt"),
        ({"tensorrt": "8.6.1", "tensorrt-cu12": "8.6.1"}, "tensorrt"),
        ({"tensorrt-cu13": "12.0.0.1"}, "tensorrt-cu13"),
        ({"tensorrt-rtx": "1.6.0"}, "tensorrt-rtx"),
        ({"tensorrt": "10.12.0.36"}, None),
        ({"tensorrt-cu13": "11.4.0.106", "tensorrt-rtx": "1.7.1.116"}, None),
    ],
)
def test_versions_of_tensorrt(
    install: Install, capsys: pytest.CaptureFixture[str], versions: dict[str, str], refused: str | None
) -> None:
    install(versions)
    found = told(capsys)
    assert len(found) == (refused is not None)
    for clash in found:
        assert refused is not None
        assert clash["versions"][refused] == versions[refused] and clash["versions"]["supported"]
        assert f"{refused} {versions[refused]} is not supported" in clash["says"]
        assert " to before " in clash["says"]
        assert clash["remedy"].startswith("pip install '") and "<" in clash["remedy"]


def test_an_engine_of_a_refused_version_is_not_ready(
    install: Install, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install({"tensorrt": "10.3.0"}, driver="12.6")
    monkeypatch.setattr(capability, "find_spec", lambda name: "a spec")
    main(["doctor", "--json"])
    record = json.loads(capsys.readouterr().out)
    assert record["libraries"]["tensorrt"] == {"tensorrt": "10.3.0"}
    state = record["engines"]["tensorrt fp16"]
    assert "finds tensorrt 10.3.0" in state and "10.12 to before 12.0" in state


def test_pycuda_without_a_driver(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install({"pycuda": "2026.1"})
    (clash,) = told(capsys)
    assert clash["versions"] == {"pycuda": "2026.1", "NVIDIA driver": None}
    assert "pycuda 2026.1" in clash["says"] and "pip uninstall -y pycuda" in clash["remedy"]
    install({"pycuda": "2026.1"}, driver="13.0")
    assert told(capsys) == []


NEEDS_12 = {"onnxruntime-gpu": ["numpy", 'nvidia-cuda-runtime-cu12~=12.0; extra == "cuda"']}
NEEDS_13 = {"onnxruntime-gpu": ["numpy", 'nvidia-cuda-runtime~=13.0; extra == "cuda"']}
"""What versions 1.26.0 and 1.31.1 say of themselves."""


@pytest.mark.parametrize(
    ("needs", "others", "cudart", "says"),
    [
        (NEEDS_12, {"nvidia-cuda-runtime": "13.2.86"}, None, "CUDA 12, installed is nvidia-cuda-runtime 13"),
        (NEEDS_13, {"nvidia-cuda-runtime-cu12": "12.8.90"}, None, "CUDA 13, installed is nvidia-cuda-runt"),
        (NEEDS_13, {}, "libcudart.so.12", "CUDA 13, installed is libcudart.so.12 12"),
        (NEEDS_13, {"nvidia-cuda-runtime": "13.2.86"}, "libcudart.so.12", None),
        (NEEDS_12, {}, "libcudart.so.12", None),
        (NEEDS_12, {}, None, None),
        ({"onnxruntime-gpu": ["numpy"]}, {}, "libcudart.so.11.0", None),
    ],
)
def test_another_cuda_than_onnxruntime_was_built_for(
    install: Install,
    capsys: pytest.CaptureFixture[str],
    needs: dict[str, list[str]],
    others: dict[str, str],
    cudart: str | None,
    says: str | None,
) -> None:
    install({"onnxruntime-gpu": "1.26.0", **others}, needs, cudart=cudart)
    found = told(capsys)
    assert len(found) == (says is not None)
    for clash in found:
        assert f"onnxruntime-gpu 1.26.0 needs {says}" in clash["says"]
        assert clash["versions"]["onnxruntime-gpu"] == "1.26.0" and len(clash["versions"]) == 2
        assert clash["remedy"] == "pip install 'onnxruntime-gpu[cuda,cudnn]==1.26.0'"


def test_a_driver_of_an_earlier_cuda(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    versions = {"onnxruntime-gpu": "1.31.1", "nvidia-cuda-runtime": "13.2.86"}
    install(versions, NEEDS_13, driver="12.4")
    (clash,) = told(capsys)
    assert clash["versions"] == {"onnxruntime-gpu": "1.31.1", "CUDA of the driver": "12.4"}
    assert "needs CUDA 13, the driver's is 12.4" in clash["says"] and "newer" in clash["remedy"]
    assert "pip install onnxruntime-gpu==1.26.0" in clash["remedy"]
    install(versions, NEEDS_13, driver="13.0")
    assert told(capsys) == []


@pytest.mark.parametrize(("answer", "found"), [(0, "13.2"), (3, None)])
def test_the_driver_tells_its_cuda(monkeypatch: pytest.MonkeyPatch, answer: int, found: str | None) -> None:
    class Driver:
        def __init__(self, name: str) -> None:
            assert name == "libcuda.so.1"

        def cuDriverGetVersion(self, number: Any) -> int:  # noqa: N802 (the driver's name)
            number._obj.value = 13020
            return answer

    monkeypatch.setattr(module, "nvidia_driver", lambda: True)
    monkeypatch.setattr(ctypes, "CDLL", Driver)
    assert module.driver_cuda() == found
    monkeypatch.setattr(module, "nvidia_driver", lambda: False)
    assert module.driver_cuda() is None


def test_the_versions_of_this_very_environment(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json"])
    record = json.loads(capsys.readouterr().out)
    assert record["libraries"]["pytorch"] == {"torch": metadata.version("torch")}
    assert record["libraries"]["onnxruntime"] == {"onnxruntime": metadata.version("onnxruntime")}
    assert record["clashes"] == []
    main(["doctor"])
    assert f"onnxruntime {metadata.version('onnxruntime')}" in capsys.readouterr().out
