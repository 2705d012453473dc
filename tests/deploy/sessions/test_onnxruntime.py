from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
from contracts.session import SessionContract
from little_net import pictures

from afdcd.errors import UserError
from deploy.bundle import CLASS_MAP, LOGITS
from deploy.sessions import Session, open_session
from deploy.sessions.onnxruntime import OnnxRuntimeSession, open_graph

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
