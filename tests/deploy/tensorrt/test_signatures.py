"""The fakes have the signatures of what they stand for: recorded ones, and those that are installed here."""

from __future__ import annotations

import importlib
import inspect
import re
from types import FunctionType
from typing import Any

import pytest
from fake_gpu import FakeGpu, fake_cuda_runtime, fake_pycuda
from fake_tensorrt import fake_tensorrt
from recorded_tensorrt import CALLS, FLAGS, PYCUDA


def _methods(module: Any) -> dict[str, tuple[str, ...]]:
    """Public calls of a fake's functions and classes, with their parameters."""
    found = {}
    for name, value in vars(module).items():
        if isinstance(value, FunctionType):
            found[name] = tuple(inspect.signature(value).parameters)
        elif inspect.isclass(value):
            for method, call in vars(value).items():
                if not isinstance(call, FunctionType | staticmethod):
                    continue
                if method == "__init__" or not method.startswith("_"):
                    parameters = tuple(inspect.signature(getattr(value, method)).parameters)
                    found[f"{name}.{method}"] = tuple(one for one in parameters if one != "self")
    return found


@pytest.mark.parametrize("version", FLAGS)
def test_the_fake_tensorrt_is_like_what_was_recorded(version: str) -> None:
    faked = _methods(fake_tensorrt(FakeGpu(), version))
    for call, parameters in CALLS.items():
        assert faked[call] == parameters, call
    own = {call for call in faked if call.endswith(".__init__")}
    assert set(faked) - own <= set(CALLS), "the fake can do what was never recorded"


def test_what_was_recorded_is_like_the_installed_tensorrt_rtx() -> None:
    api = pytest.importorskip("tensorrt_rtx")
    for call, parameters in CALLS.items():
        owner, method = call.split(".")
        text = getattr(getattr(api, owner), method).__doc__
        forms = re.findall(rf"\b{method}\(self: [^,)]+,? ?(.*?)\) -> ", text)
        first = re.sub(r"<[^>]*>", "", forms[0])
        assert tuple(re.findall(r"(\w+): ", first)) == parameters, call


def test_flags_that_are_needed_are_in_the_installed_tensorrt_rtx() -> None:
    api = pytest.importorskip("tensorrt_rtx")
    assert "STRONGLY_TYPED" in api.NetworkDefinitionCreationFlag.__members__
    assert "TF32" in api.BuilderFlag.__members__
    assert not {"FP16", "BF16", "INT8"} & set(api.BuilderFlag.__members__)


def test_the_fake_pycuda_is_like_its_source() -> None:
    faked = _methods(fake_pycuda(FakeGpu()))
    for call, parameters in PYCUDA.items():
        if call == "DeviceAllocation.free":
            assert faked[call] == ()
        else:
            assert faked[call] == parameters, call


def test_the_fake_cuda_runtime_is_like_the_installed_cuda_python() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    faked = {name: call for name, call in _methods(fake_cuda_runtime(FakeGpu())).items() if "." not in name}
    assert len(faked) > 20
    for name, parameters in faked.items():
        signature = getattr(runtime, name).__doc__.splitlines()[0]
        inside = signature[signature.index("(") + 1 : signature.rindex(")")]
        real = [part.split(":")[0].split()[-1] for part in inside.split(",") if part.strip()]
        assert tuple(real) == parameters, name


def test_cuda_python_without_a_driver_answers_with_a_code() -> None:
    """What the probe spares us: the real library, asked on a machine without a GPU, refuses and says why."""
    pytest.importorskip("cuda.bindings.runtime")
    from deploy.sessions.capability import nvidia_driver

    if nvidia_driver():
        pytest.skip("this machine has a driver")
    from afdcd.errors import UserError
    from deploy.tensorrt.memory_cuda_python import CudaPythonMemory

    with pytest.raises(UserError, match=r"the GPU refused cudaMalloc \(.*\); start the process again"):
        CudaPythonMemory().alloc(16)


def test_the_runner_calls_nothing_that_the_fake_lacks() -> None:
    """Attributes that the product code uses on TensorRT's objects are among the recorded calls."""
    recorded = {call.split(".")[1] for call in CALLS}
    used = set()
    for name in ("engine", "plan", "network"):
        source = inspect.getsource(importlib.import_module(f"deploy.tensorrt.{name}"))
        used |= set(
            re.findall(r"\.((?:get|set|create|add|clear|build|execute|infer|deserialize)_\w+)\(", source)
        )
    used -= {"set_flag", "clear_flag"}  # chosen between in one expression
    assert used and used <= recorded, used - recorded
