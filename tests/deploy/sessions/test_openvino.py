from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from contracts.session import SessionContract
from little_net import pictures
from openvino_files import float_files

from afdcd.errors import UserError
from afdcd.metrics import agreement
from deploy.bundle import CLASS_MAP, ir_names
from deploy.export import Exported
from deploy.sessions import Session, open_backend, open_session
from deploy.sessions.capability import capability
from deploy.sessions.openvino import SHAPES, OpenVinoSession, compile_graph

pytestmark = pytest.mark.xdist_group("little")
needs_bf16 = pytest.mark.skipif(
    capability("openvino", "bf16") is not None, reason="this CPU has no bfloat16 instructions"
)


class _OpenVino(SessionContract):
    def threads_of(self, session: Session) -> int:
        assert isinstance(session, OpenVinoSession)
        session.infer(pictures(range(1)))
        (request,) = session._compiled.values()
        return int(request.get_compiled_model().get_property("INFERENCE_NUM_THREADS"))


class TestFloat(_OpenVino):
    target = "openvino_fp32"


@needs_bf16
@pytest.mark.slow
class TestBfloat16(_OpenVino):
    target = "openvino_bf16"


@pytest.mark.slow
class TestInt8(_OpenVino):
    target = "openvino_int8"

    def test_convolutions_are_in_int8(self, session: Session) -> None:
        session.infer(pictures(range(1)))
        assert isinstance(session, OpenVinoSession)
        (request,) = session._compiled.values()
        infos = [node.get_rt_info() for node in request.get_compiled_model().get_runtime_model().get_ops()]
        kinds = {
            (str(info["layerType"].astype(str)), str(info["runtimePrecision"].astype(str))) for info in infos
        }
        assert kinds & {("Convolution", "u8"), ("Convolution", "i8")}


def _open(exported: Exported, **options: Any) -> Session:
    return open_backend("openvino", exported.contract, exported.files.__getitem__, threads=1, **options)


@needs_bf16
def test_bfloat16_is_really_computed_in_it(exported: Exported) -> None:
    images = pictures(range(2))
    with _open(exported) as exact, _open(exported, precision="bf16") as rough:
        wanted, logits = exact.logits(images), rough.logits(images)
        error = np.abs(logits - wanted).max() / np.abs(wanted).max()
        assert agreement(exact.infer(images), rough.infer(images)) > 0.98
    # A bfloat16 has 8 bits of precision, a float32 24.
    assert 1e-4 < error < 0.05


def test_float32_is_exact_even_where_bfloat16_would_be_the_default(exported: Exported) -> None:
    images = pictures(range(2))
    with (
        _open(exported) as session,
        open_backend("onnxruntime", exported.contract, exported.files.__getitem__, threads=1) as other,
    ):
        np.testing.assert_allclose(session.logits(images), other.logits(images), rtol=1e-4, atol=1e-4)


def test_a_type_that_the_engine_changes_is_an_error(exported: Exported) -> None:
    class Compiled:
        def get_property(self, name: str) -> ov.Type:
            return ov.Type.f32

    class Core:
        def compile_model(self, *given: Any) -> Compiled:
            return Compiled()

    with pytest.raises(UserError, match=r"asked openvino for bf16, it computes in f32"):
        compile_graph(Core(), None, "x.onnx", threads=1, wanted=ov.Type.bf16)  # type: ignore[arg-type]


def test_a_precision_without_a_hint_is_refused(exported: Exported) -> None:
    with pytest.raises(UserError, match=r"runs fp32, bf16, int8, not fp16"):
        _open(exported, precision="fp16")


def test_int8_is_read_from_openvinos_own_format(exported: Exported) -> None:
    files = float_files(exported.files)
    images = pictures(range(2))
    with (
        _open(exported) as plain,
        open_backend(
            "openvino", exported.contract, files.__getitem__, threads=1, precision="int8"
        ) as session,
    ):
        np.testing.assert_array_equal(session.infer(images), plain.infer(images))
        np.testing.assert_allclose(session.logits(images), plain.logits(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("part", [0, 1])
def test_a_damaged_graph_is_refused_in_one_sentence(exported: Exported, part: int) -> None:
    files = float_files(exported.files)
    damaged = ir_names(CLASS_MAP)[part]
    files[damaged] = files[damaged][: len(files[damaged]) // 2]
    with pytest.raises(UserError, match=r"openvino .* cannot load class_map.xml: \S") as caught:
        open_backend("openvino", exported.contract, files.__getitem__, threads=1, precision="int8")
    assert "\n" not in str(caught.value) and "Exception from" not in str(caught.value)


def test_a_file_that_is_no_graph_is_refused(bundle: Callable[[str], Path]) -> None:
    folder = bundle("openvino_fp32")
    junk = b"no protobuf"
    good = hashlib.sha256((folder / CLASS_MAP).read_bytes()).hexdigest()
    manifest = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(manifest.replace(good, hashlib.sha256(junk).hexdigest()))
    (folder / CLASS_MAP).write_bytes(junk)
    with pytest.raises(UserError, match=r"openvino .* cannot load class_map.onnx: Unable to read the model"):
        open_session(folder, threads=1)


def test_only_the_last_shapes_stay_compiled(exported: Exported) -> None:
    with _open(exported) as session:
        assert isinstance(session, OpenVinoSession)
        for batch in [*range(1, SHAPES + 1), 1, SHAPES + 1]:
            session.infer(pictures(range(batch)))
        kept = [shape[0] for _, shape in session._compiled]
    assert kept == [*range(3, SHAPES + 1), 1, SHAPES + 1]


def test_nothing_is_sent_and_nothing_is_kept_on_disk(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import openvino_telemetry

    def sent(*given: Any, **named: Any) -> None:
        raise AssertionError("telemetry")

    monkeypatch.setattr(openvino_telemetry.Telemetry, "send_event", sent)
    monkeypatch.setattr(openvino_telemetry.Telemetry, "start_session", sent)
    monkeypatch.chdir(tmp_path)
    with _open(exported) as session:
        session.infer(pictures(range(1)))
    assert not list(tmp_path.iterdir())


def test_it_runs_without_torch(bundle: Callable[[str], Path]) -> None:
    code = (
        "import sys, numpy as np; from pathlib import Path; from deploy.sessions import open_session\n"
        "with open_session(Path(sys.argv[1]), threads=1) as session:\n"
        "    session.infer(np.zeros((1, 32, 64, 3), np.uint8))\n"
        "assert not {'torch', 'onnx', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(bundle("openvino_fp32"))], check=True)
