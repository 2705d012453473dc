from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from fake_run import write_engine
from onnx import TensorProto, helper

from deploy.__main__ import main


def refused(capsys: pytest.CaptureFixture[str], *given: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(given))
    assert ended.value.code == 1
    return capsys.readouterr().err


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    """A file, and one whose first kernel is twice as large."""
    first, value = tmp_path / "first.onnx", helper.make_tensor_value_info
    made = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [value("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), dtype=np.float32), "w")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, first)
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[0] *= 2
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, tmp_path / "second.onnx")
    return str(first), str(tmp_path / "second.onnx")


def test_engines_of_a_file_agree_and_another_file_differs(
    two: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = ["--shape", "2x3x9x9"]
    given = ["compare", *two, *shape, "--backend", "onnxruntime", "openvino"]
    main([*given, "--out", str(tmp_path / "record.json")])
    assert "SQNR" in capsys.readouterr().out
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["reference"] == f"{two[0]} on onnxruntime"
    same, other = record["models"][f"{two[0]} on openvino"], record["models"][f"{two[1]} on openvino"]
    assert same["max_relative_error"] < 1e-5 and same["inputs"] == 2 and same["miou"] is None
    assert other["max_relative_error"] == pytest.approx(1, rel=1e-4)
    assert other["sqnr_db"] == pytest.approx(6.02, abs=0.01)  # one channel of four is off by its own size
    assert "needs two models" in refused(capsys, "compare", two[0], *shape)
    assert "needs fixed sizes" in refused(capsys, "compare", *two)


def test_bundles_and_files_are_held_against_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, highest in (("painter", 1), ("copier", 2)):
        write_engine(tmp_path / name, name, highest=highest)
    paths = [str(tmp_path / "painter"), str(tmp_path / "painter/class_map.onnx"), str(tmp_path / "copier")]
    main(["compare", *paths, "--json", "--shape", "1x8x16x3"])
    found = list(json.loads(capsys.readouterr().out)["models"].values())
    assert [one["agreement"] == 1.0 for one in found] == [
        True,
        False,
        True,
    ]  # JSON sorts: the file, copier, painter
    assert all(one["bytes"] > 0 for one in found)


def test_parity_of_two_files(
    two: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    (tmp_path / "image").mkdir()
    Image.new("RGB", (20, 10), (9, 99, 199)).save(tmp_path / "image/a.png")
    more = ["--images", str(tmp_path / "image"), "--shape", "1x3x9x9"]
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(Path(two[0]).read_bytes())
    main(["parity", two[0], str(copy), *more, "--json"])
    assert json.loads(capsys.readouterr().out)["max_relative_error"] == 0.0
    told = refused(capsys, "parity", *two, *more)
    assert "largest relative error 1.0" in told and "(at most 1.0e-04)" in told and "--max-error" in told
    assert "give a second file" in refused(capsys, "parity", two[0], *more)


def test_outputs_that_are_no_segmentation_are_not_called_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        [helper.make_node("Shape", ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [1, 3, 9, 9])],
        [value("y", TensorProto.INT64, [4])],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    for name in ("first.onnx", "second.onnx"):
        onnx.save(model, tmp_path / name)
    paths = [str(tmp_path / "first.onnx"), str(tmp_path / "second.onnx")]
    assert "no class map, no scores and no float output" in refused(capsys, "compare", *paths)
