from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from afdcd.errors import UserError
from deploy.__main__ import main
from deploy.build import build
from deploy.bundle import CLASS_MAP, LOGITS
from deploy.check import ONNX_BACKENDS, Finding, check, check_file, require_sound
from deploy.config import TargetConfig
from deploy.export import Exported
from deploy.precision import variant
from deploy.quantize import Typed

pytestmark = pytest.mark.xdist_group("little")

FLOATS = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
OUTPUT = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)


def _model(
    *nodes: onnx.NodeProto, given: onnx.ValueInfoProto = FLOATS, opset: int = 20, **constants: Any
) -> onnx.ModelProto:
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "g", [given], [OUTPUT], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _pair(zero: Any) -> onnx.ModelProto:
    """Quantise and dequantise."""
    return _model(
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantise"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="back"),
        s=np.float32(0.1),
        z=zero,
    )


def _errors(found: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.rule, finding.place) for finding in found if finding.level == "error"]


@pytest.mark.parametrize("backend", ONNX_BACKENDS)
def test_what_the_project_exports_is_sound(exported: Exported, backend: str) -> None:
    for name in (CLASS_MAP, LOGITS):
        found = check(onnx.load_from_string(exported.files[name]), backend)
        assert not _errors(found)
        # The batch is free, of which TensorRT wants to know more.
        assert [finding.rule for finding in found] == (["sizes"] if "tensorrt" in backend else [])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_typed_graphs_are_sound(exported: Exported, precision: Any) -> None:
    content = variant(exported.files, precision)[CLASS_MAP]
    assert not _errors(check(onnx.load_from_string(content), "tensorrt"))


@pytest.mark.parametrize("name", [CLASS_MAP, LOGITS])
def test_each_preset_is_sound_for_its_engine(quantised: Callable[..., Typed], name: str) -> None:
    for backend in ("onnxruntime", "tensorrt"):
        require_sound(quantised(backend).files[name], name, backend)


def test_int8_of_onnxruntime_is_not_for_tensorrt(int8: Typed) -> None:
    found = check(onnx.load_from_string(int8.files[CLASS_MAP]), "tensorrt")
    rules = [rule for rule, _ in _errors(found)]
    assert rules.count("int32 bias") == 4 and rules.count("unsigned") > 8
    with pytest.raises(UserError, match=r"class_map.onnx is not sound for tensorrt: node .* s8s8_symmetric"):
        require_sound(int8.files[CLASS_MAP], CLASS_MAP, "tensorrt")


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt_rtx", "onnxruntime_tensorrt"])
@pytest.mark.parametrize(
    ("zero", "rule"), [(np.uint8(0), "unsigned"), (np.uint8(128), "unsigned"), (np.int8(3), "zero point")]
)
def test_quantised_values_that_tensorrt_would_misread(backend: str, zero: Any, rule: str) -> None:
    assert _errors(check(_pair(zero), backend)) == [
        (rule, "node 'quantise' (QuantizeLinear)"),
        (rule, "node 'back' (DequantizeLinear)"),
    ]
    assert not check(_pair(zero), "onnxruntime")


def test_signed_symmetric_values_are_sound() -> None:
    assert not check(_pair(np.int8(0)), "tensorrt")


def test_a_quantiser_without_a_zero_point_is_unsigned_unless_it_says_otherwise() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"], name="quantise"),
        helper.make_node("DequantizeLinear", ["q", "s"], ["y"], name="back"),
    ]
    model = _model(*nodes, opset=21, s=np.float32(0.1))
    assert _errors(check(model, "tensorrt")) == [("unsigned", "node 'quantise' (QuantizeLinear)")]
    model.graph.node[0].attribute.append(helper.make_attribute("output_dtype", TensorProto.INT8))
    assert not check(model, "tensorrt")


def test_zero_points_in_constant_nodes_are_seen() -> None:
    zero = numpy_helper.from_array(np.array(7, np.int8))
    model = _pair(np.int8(0))
    del model.graph.initializer[1]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["z"], name="z", value=zero))
    assert [rule for rule, _ in _errors(check(model, "tensorrt"))] == ["zero point", "zero point"]


def test_a_bias_in_int32() -> None:
    model = _model(
        helper.make_node("DequantizeLinear", ["b", "s"], ["bias"], name="its_bias"),
        helper.make_node("Add", ["bias", "x"], ["y"], name="add"),
        b=np.array([3], np.int32),
        s=np.float32(0.1),
    )
    assert _errors(check(model, "tensorrt")) == [("int32 bias", "node 'its_bias' (DequantizeLinear)")]


def test_bytes_must_be_cast_first_for_tensorrt() -> None:
    model = _model(
        helper.make_node("Transpose", ["x"], ["t"], name="turn", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["t"], ["y"], name="cast", to=TensorProto.FLOAT),
        given=helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 8, 8, 3]),
    )
    assert _errors(check(model, "tensorrt_rtx")) == [("byte order", "node 'turn' (Transpose)")]
    assert not check(model, "openvino")


def test_an_unknown_operator_is_named_with_its_node() -> None:
    model = _model(helper.make_node("Own", ["x"], ["y"], name="mine", domain="lab"))
    (finding,) = check(model, "openvino")
    assert (finding.level, finding.rule, finding.place) == ("error", "operator", "node 'mine' (Own)")
    assert "lab.Own" in finding.says and "standard operators" in finding.remedy
    unnamed = _model(helper.make_node("Nonsense", ["x"], ["y"]))
    assert _errors(check(unnamed, "tensorrt")) == [("operator", "node 'y' (Nonsense)")]


def test_operators_of_onnxruntime_are_for_it_alone() -> None:
    model = _model(helper.make_node("FusedConv", ["x"], ["y"], name="fused", domain="com.microsoft"))
    assert not check(model, "onnxruntime")
    assert _errors(check(model, "openvino")) == [("operator", "node 'fused' (FusedConv)")]


def test_float64_is_an_error_for_tensorrt() -> None:
    model = _model(
        helper.make_node("Cast", ["k"], ["y"], name="cast", to=TensorProto.FLOAT), k=np.array([1 / 3])
    )
    assert _errors(check(model, "tensorrt")) == [("wide constant", "constant 'k'")]


def test_an_old_opset_and_what_only_training_needs_are_remarks() -> None:
    model = _model(helper.make_node("Dropout", ["x"], ["y"], name="drop"), opset=13)
    found = check(model, "onnxruntime")
    assert [(finding.level, finding.rule) for finding in found] == [
        ("warning", "opset"),
        ("warning", "training"),
    ]


def test_lengths_without_a_name() -> None:
    free = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, None, None])
    model = _model(helper.make_node("Relu", ["x"], ["y"], name="relu"), given=free)
    assert _errors(check(model, "onnxruntime")) == [("sizes", "input 'x'")]


def test_pooling_that_was_spelled_out_is_seen(tmp_path: Path) -> None:
    """PyTorch's own exporter writes 6x6 bins as hundreds of Gathers."""
    path = tmp_path / "pool.onnx"
    example = torch.zeros(1, 3, 32, 40)
    pool = torch.nn.AdaptiveAvgPool2d(6).eval()
    torch.onnx.export(pool, (example,), path, dynamo=True, external_data=False, verbose=False)
    (finding,) = check_file(path, "onnxruntime")
    assert (finding.level, finding.rule) == ("warning", "gathers")


def test_the_projects_pooling_is_not(dynamic: Exported) -> None:
    found = check(onnx.load_from_string(dynamic.files[CLASS_MAP]), "onnxruntime")
    assert not found


def test_half_and_quantised_values_do_not_mix_in_onnxruntime() -> None:
    model = _pair(np.uint8(0))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.float16(0.1), "s"))
    assert [rule for rule, _ in _errors(check(model, "onnxruntime_cuda"))] == ["fp16 and int8"]


def _with_data(folder: Path, exported: Exported) -> Path:
    path = folder / "mine.onnx"
    model = onnx.load_from_string(exported.files[CLASS_MAP])
    onnx.save(model, path, save_as_external_data=True, location="mine.data", size_threshold=0)
    return path


def test_weights_in_another_file(exported: Exported, tmp_path: Path) -> None:
    path = _with_data(tmp_path, exported)
    assert _errors(check_file(path, "onnxruntime")) == [("external data", "file 'mine.data'")]
    (tmp_path / "mine.data").unlink()
    with pytest.raises(UserError, match="keeps weights in the file mine.data, which is not beside it"):
        check_file(path, "onnxruntime")


def test_a_backend_without_onnx_is_refused() -> None:
    with pytest.raises(UserError, match="'pytorch' reads no ONNX graph"):
        check(_pair(np.int8(0)), "pytorch")


def test_a_build_refuses_what_the_engine_would_misread(
    typed: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph for ONNX Runtime's CPU kernels, taken for TensorRT's."""
    monkeypatch.setattr("deploy.build.check_target", lambda name, spec: None)
    spec = TargetConfig(backend="tensorrt", precision="int8", where="here", threads=1)
    folder = typed("ort_cpu_int8")
    with pytest.raises(UserError, match=r"class_map.onnx is not sound for tensorrt: node .* more like it"):
        build(folder, tmp_path / "engine", target="mine", spec=spec, hardware={})
    assert not (tmp_path / "engine").exists()


def test_the_command(exported: Exported, int8: Typed, tmp_path: Path, capsys: Any) -> None:
    good, bad = tmp_path / "good.onnx", tmp_path / "bad.onnx"
    good.write_bytes(exported.files[CLASS_MAP])
    bad.write_bytes(int8.files[CLASS_MAP])
    main(["check", str(good), "--for", "onnxruntime"])
    assert "nothing found" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["check", str(bad), "--for", "tensorrt", "--json"])
    told = capsys.readouterr()
    assert end.value.code == 1 and '"rule": "unsigned"' in told.out
    assert told.err.startswith(f"error: {bad} is not sound for tensorrt: ")
    with pytest.raises(SystemExit):
        main(["check", str(tmp_path / "none.onnx"), "--for", "tensorrt"])
    assert "none.onnx does not exist" in capsys.readouterr().err
