from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import onnxruntime as ort
import pytest
from contracts.session import SessionContract
from little_net import pictures

from afdcd.errors import UserError
from deploy.bundle import CLASS_MAP, LOGITS
from deploy.config import Precision
from deploy.export import Exported
from deploy.sessions import Session, open_backend, open_session
from deploy.sessions import onnxruntime as module
from deploy.sessions.onnxruntime import (
    CPU,
    CUDA,
    TENSORRT,
    CudaSession,
    OnnxRuntimeSession,
    TensorRtSession,
    open_graph,
    require_all_there,
)

pytestmark = pytest.mark.xdist_group("little")


class _OnnxRuntime(SessionContract):
    def threads_of(self, session: Session) -> int:
        assert isinstance(session, OnnxRuntimeSession)
        return int(session._open[CLASS_MAP].get_session_options().intra_op_num_threads)


class TestFloat(_OnnxRuntime):
    target = "ort_cpu_fp32"


class TestInt8(_OnnxRuntime):
    target = "ort_cpu_int8"


def test_the_logits_twin_is_opened_when_it_is_asked_for(bundle: Callable[[str], Path]) -> None:
    folder = bundle("ort_cpu_fp32")
    content = (folder / LOGITS).read_bytes()
    (folder / LOGITS).write_bytes(content + b" ")
    with open_session(folder, threads=1) as session:
        session.infer(pictures(range(1)))
        with pytest.raises(UserError, match=r"logits.onnx is not the file"):
            session.logits(pictures(range(1)))


def test_another_provider_than_the_one_asked_for_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere:
        def __init__(self, *given: Any, **named: Any) -> None: ...

        def get_providers(self) -> list[str]:
            return ["AzureExecutionProvider", "CPUExecutionProvider"]

    monkeypatch.setattr(ort, "InferenceSession", Elsewhere)
    with pytest.raises(UserError, match=r"asked onnxruntime for CPUExecutionProvider, it took \['Azure"):
        open_graph(b"", "x.onnx", threads=1)


PLACES = [CUDA, TENSORRT]
KINDS = {"onnxruntime_cuda": CudaSession, "onnxruntime_tensorrt": TensorRtSession}


class Node(NamedTuple):
    op_type: str
    name: str = "node"


class Part(NamedTuple):
    ep_name: str
    nodes: list[Node]

    def get_nodes(self) -> list[Node]:
        return self.nodes


class Gpu:
    """What is used of onnxruntime on a machine with a GPU."""

    def __init__(self, parts: list[Part], providers: list[str] | None = None) -> None:
        self.parts, self.providers = parts, providers
        self.asked: dict[str, Any] = {}

    def __call__(self, graph: bytes, options: Any, **named: Any) -> Gpu:
        assert options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"
        self.asked = named
        return self

    def get_providers(self) -> list[str]:
        return [self.asked["providers"][0][0], CPU] if self.providers is None else self.providers

    def get_provider_graph_assignment_info(self) -> list[Part]:
        return self.parts

    @classmethod
    def install(
        cls, monkeypatch: pytest.MonkeyPatch, *parts: Part, providers: list[str] | None = None
    ) -> Gpu:
        gpu = cls(list(parts), providers)
        monkeypatch.setattr(ort, "get_available_providers", lambda: [*PLACES, CPU])
        monkeypatch.setattr(ort, "preload_dlls", lambda: None)
        monkeypatch.setattr(module, "nvidia_driver", lambda: True)
        fake = type(
            "Fake",
            (),
            {"get_provider_graph_assignment_info": None, "__new__": lambda cls, *a, **n: gpu(*a, **n)},
        )
        monkeypatch.setattr(ort, "InferenceSession", fake)
        return gpu


@pytest.mark.parametrize("provider", PLACES)
def test_a_provider_that_is_not_there_is_refused_with_those_that_are(provider: str) -> None:
    with pytest.raises(UserError, match=rf"has no {provider}, only .*{CPU}; .* onnxruntime-gpu alone"):
        open_graph(b"", "x.onnx", threads=1, provider=provider)


@pytest.mark.parametrize("provider", PLACES)
def test_without_a_driver_no_gpu_library_is_loaded(monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    def loaded(*given: Any, **named: Any) -> None:
        raise AssertionError("touched")

    monkeypatch.setattr(ort, "get_available_providers", lambda: [*PLACES, CPU])
    monkeypatch.setattr(module, "nvidia_driver", lambda: False)
    for name in ("InferenceSession", "preload_dlls"):
        monkeypatch.setattr(ort, name, loaded)
    with pytest.raises(UserError, match=rf"{provider} needs an NVIDIA GPU with a driver"):
        open_graph(b"", "x.onnx", threads=1, provider=provider)


@pytest.mark.parametrize("provider", PLACES)
def test_a_session_that_fell_back_is_an_error(monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    Gpu.install(monkeypatch, providers=[CPU])
    with pytest.raises(UserError, match=rf"asked onnxruntime for {provider}, it took \['{CPU}'\]"):
        open_graph(b"", "x.onnx", threads=1, provider=provider)


@pytest.mark.parametrize("provider", PLACES)
def test_a_node_that_fell_back_is_an_error(monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    Gpu.install(
        monkeypatch,
        Part(provider, [Node("Conv")]),
        Part(CPU, [Node("Shape"), Node("Gather"), Node("Resize", "upsample"), Node("ArgMax")]),
    )
    with pytest.raises(
        UserError, match=rf"2 of its nodes run elsewhere, the first is Resize 'upsample' on {CPU}"
    ):
        open_graph(b"", "x.onnx", threads=1, provider=provider)


@pytest.mark.parametrize("name", KINDS)
def test_the_provider_is_asked_alone_and_may_not_be_replaced(
    monkeypatch: pytest.MonkeyPatch, exported: Exported, name: str
) -> None:
    kind = KINDS[name]
    gpu = Gpu.install(monkeypatch, Part(kind.provider, [Node("Conv")]), Part(CPU, [Node("Shape")]))
    with open_backend(name, exported.contract, exported.files.__getitem__, threads=1) as session:
        assert type(session) is kind
    assert gpu.asked["enable_fallback"] is False
    ((provider, settings),) = gpu.asked["providers"]
    assert provider == kind.provider
    assert settings == ({"use_tf32": "0"} if name == "onnxruntime_cuda" else {})


@pytest.mark.parametrize(("precision", "leave"), [("fp16", "trt_fp16_enable"), ("int8", "trt_int8_enable")])
def test_tensorrt_gets_leave_for_what_the_graph_is_typed_in(precision: Precision, leave: str) -> None:
    assert TensorRtSession.settings(precision) == {leave: "1"}


def test_where_nodes_went_is_what_the_real_onnxruntime_tells(exported: Exported) -> None:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(exported.files[CLASS_MAP], options, providers=[CPU])
    parts = session.get_provider_graph_assignment_info()
    assert {part.ep_name for part in parts} == {CPU}
    assert {"Conv", "ArgMax"} <= {node.op_type for part in parts for node in part.get_nodes()}
    monkey = type("Asked", (), {"get_providers": lambda self: [CUDA, CPU]})()
    monkey.get_provider_graph_assignment_info = lambda: parts
    with pytest.raises(UserError, match=rf"nodes run elsewhere, the first is \w+ '\S+' on {CPU}"):
        require_all_there(monkey, "x.onnx", CUDA)


def test_a_file_that_is_no_graph_is_refused_in_one_sentence(bundle: Callable[[str], Path]) -> None:
    folder = bundle("ort_cpu_fp32")
    junk = b"no protobuf"
    good = hashlib.sha256((folder / CLASS_MAP).read_bytes()).hexdigest()
    manifest = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(manifest.replace(good, hashlib.sha256(junk).hexdigest()))
    (folder / CLASS_MAP).write_bytes(junk)
    with pytest.raises(UserError, match=r"onnxruntime .* cannot load class_map.onnx") as caught:
        open_session(folder, threads=1)
    assert "\n" not in str(caught.value)
