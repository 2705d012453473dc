from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from afdcd.errors import UserError
from deploy.__main__ import main
from deploy.anyones import Wish, open_file


def graph(path: Path, shape: list[int | str], operator: str = "Conv", domain: str = "") -> Path:
    """An ONNX file of one node, whose weights are a kernel of 3 x 3."""
    value = helper.make_tensor_value_info
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 3, 3, 3], np.ones(108, dtype=np.float32))
    made = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"], "the_node", domain=domain)],
        "g",
        [value("x", TensorProto.FLOAT, shape)],
        [value("y", TensorProto.FLOAT, None)],
        [weight],
    )
    opsets = [helper.make_opsetid("", 20), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=10), path)
    return path


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_open_sizes_are_asked_for(tmp_path: Path, engine: str) -> None:
    path = graph(tmp_path / "open.onnx", ["n", 3, "h", "w"])
    for wish in (Wish("x", (2, 3, 9, 8)), Wish("", (1, 3, 5, 5))):
        calls = open_file(path, engine, threads=1, wishes=[wish], streams=2)
        assert len(calls) == 2 and all(call() is not None for call in calls)
        assert all((took := call.compute_ms()) is not None and took > 0 for call in [*calls, *calls])
        assert all(call() is not None for call in calls), "timing alone leaves calls as they were"
    with pytest.raises(UserError, match=r"needs fixed sizes, give --shape x:Nx3xNxN"):
        open_file(path, engine, threads=1)
    with pytest.raises(UserError, match=r"'x' takes \?x3x\?x\?, --shape asks for 1x4x8x8"):
        open_file(path, engine, threads=1, wishes=[Wish("x", (1, 4, 8, 8))])
    with pytest.raises(UserError, match=r"meets no input; there are 'x'"):
        open_file(path, engine, threads=1, wishes=[Wish("z", (1, 3, 8, 8))])


def test_what_an_engine_does_not_know_is_named(tmp_path: Path) -> None:
    path = graph(tmp_path / "odd.onnx", [1, 3, 8, 8], "Wobble", "own")
    with pytest.raises(UserError, match="own:Wobble of node .the_node.;"):
        open_file(path, "onnxruntime", threads=1)
    with pytest.raises(UserError, match="openvino does not know the operator own:Wobble of node"):
        open_file(path, "openvino", threads=1)
    with pytest.raises(UserError, match="onnxruntime .* has no CUDAExecutionProvider"):
        open_file(graph(tmp_path / "a.onnx", [1, 3, 8, 8]), "onnxruntime_cuda", threads=1)
    with pytest.raises(UserError, match="take one of onnxruntime"):
        open_file(path, "tensorrt", threads=1)


def test_the_benchmark_of_anyones_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = graph(tmp_path / "open.onnx", ["n", 3, "h", "w"])
    given = ["benchmark", str(path), "--backend", "onnxruntime", "openvino", "--shape", "1x3x34x34"]
    given += ["--warmup", "1", "--iterations", "32", "--rounds", "2", "--seconds", "0.1", "--rate", "2000"]
    given += ["--scenario", "offline", "server", "--out", str(tmp_path / "record.json")]
    main(given)
    printed = capsys.readouterr().out
    assert "compute" in printed and "GMACs" in printed and "effective" in printed and "offline" in printed
    record = json.loads((tmp_path / "record.json").read_text())
    name = f"{path} on onnxruntime"
    assert set(record["models"]) == {name, f"{path} on openvino"} and record["baseline"] == name
    assert record["complexity"][name]["gmacs"] == 32 * 32 * 4 * 27 / 1e9
    theirs = record["trtexec"][name]
    assert theirs["Latency"]["percentile(90%)"] > 0 and theirs["Latency"]["percentile(99%)"] is None
    assert theirs["Enqueue Time"] is None and "no queue" in theirs["null because"]
    for one in record["models"]:
        alone = record["trtexec"][one]
        assert 0 < alone["CPU Compute Time"]["median"] == record["models"][one]["compute_ms"]["p50"]
        assert alone["GPU Compute Time"] is None and alone["Compute Clock"] == "host"
        assert record["models"][one]["compute_ms"]["samples"] == 16
    kinds = [load["kind"] for load in record["loads"][name]]
    assert kinds == ["offline", "server"] and record["loads"][name][1]["latency_ms"]["p99"] > 0


def test_a_server_needs_a_rate_or_a_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = graph(tmp_path / "fixed.onnx", [1, 3, 8, 8])
    with pytest.raises(SystemExit):
        main(["benchmark", str(path), "--scenario", "server"])
    assert "needs --rate, or --target-ms" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["benchmark", str(path), "--shape", "1x3xh"])
    assert "must be like 1x3x512x1024" in capsys.readouterr().err


@pytest.mark.slow
def test_torchvisions_lraspp_prints_the_full_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchvision.models.segmentation")
    network = models.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=19).eval()
    path = tmp_path / "lraspp.onnx"
    torch.onnx.export(network, (torch.zeros(1, 3, 256, 512),), str(path), verbose=False)
    capsys.readouterr()
    out = tmp_path / "record.json"
    few = ["--iterations", "32", "--rounds", "2", "--seconds", "1"]
    main(["benchmark", str(path), *few, "--peak", "--scenario", "offline", "--out", str(out)])
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("p50", "p90", "GMACs", "of peak %", "fp32", "offline"))
    record = json.loads(out.read_text())
    # fvcore's convolutions at 512x1024 are 3.945e9; a quarter of the pixels.
    assert record["complexity"][str(path)]["gmacs"] == pytest.approx(3.945 / 4, rel=0.01)
    share = record["work"][str(path)]["share"]
    assert 0 < share < 1.5 and record["work"][str(path)]["precision"] == "fp32"
    assert record["peak"]["gflops"]["fp32"] > 1 and record["models"][str(path)]["latency_ms"]["p90"] > 0
