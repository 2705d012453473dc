"""Every verb on an ONNX file that no code of this project made, with folders of images beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign_onnx import PIXELS, by_hand, export_plain
from little_net import LittleNet, picture, write_pictures
from onnx import TensorProto
from PIL import Image

from deploy.__main__ import main
from deploy.anyones import open_file, outputs_of
from deploy.pixels import UNIT, prepared

pytestmark = pytest.mark.xdist_group("little")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory, little: LittleNet) -> str:
    """With its weights in a second file, as torch.onnx.export writes it by default."""
    return str(export_plain(tmp_path_factory.mktemp("net") / "net.onnx", little, external=True))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """calibration, image and mask."""
    root = tmp_path_factory.mktemp("data")
    write_pictures(root / "calibration", range(12))
    write_pictures(root / "image", range(100, 104), root / "mask")
    return root


def refused(capsys: pytest.CaptureFixture[str], *given: str) -> str:
    """What a refused command says in one line; it exits 1."""
    with pytest.raises(SystemExit) as ended:
        main(list(given))
    said = capsys.readouterr()
    assert ended.value.code == 1 and said.err.startswith("error: ") and said.err.count("\n") == 1
    return said.err


def quantize(net: str, data: Path, *more: str) -> list[str]:
    return ["quantize", net, "--calibration", str(data / "calibration"), "--layers", "0", *more]


def test_int8_of_a_file_and_a_bundle_without_labels(
    net: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed, int8, bundle = (str(tmp_path / name) for name in ("typed", "int8.onnx", "bundle"))
    given = quantize(net, data, "--for", "onnxruntime", "--typed", typed, "--onnx", int8, *PIXELS)
    main([*given, "--json"])
    record = json.loads(capsys.readouterr().out)
    assert record["float_miou"] is None and record["val_images"] == 3 and record["calibration_images"] == 9
    chosen = next(one for one in record["candidates"] if one["name"] == record["chosen"])
    assert chosen["miou"] is None and chosen["agreement"] > 0.97 and chosen["sqnr_db"] > 15
    assert chosen["agreement"] >= max(one["agreement"] for one in record["candidates"]) - 1e-3

    before, after = onnx.load(net, load_external_data=False), onnx.load(int8)
    for part in ("input", "output"):
        old, new = (list(getattr(model.graph, part)) for model in (before, after))
        assert [(one.name, one.type) for one in old] == [(one.name, one.type) for one in new]
    assert any(node.op_type == "QuantizeLinear" for node in after.graph.node)
    limits = ["--min-agreement", "0.9", "--max-error", "0.5"]
    main(["parity", net, int8, "--images", str(data / "image"), *PIXELS, *limits, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert 0.95 < found["agreement"] < 1 and found["max_relative_error"] > 1e-3
    main(["benchmark", net, int8, "--iterations", "4", "--rounds", "2", "--warmup", "1", "--json"])
    assert set(json.loads(capsys.readouterr().out)["models"]) == {net, int8}

    wanted = ["--backend", "onnxruntime", "--precision", "int8", "--bundle", bundle]
    main(["build", typed, *wanted])
    capsys.readouterr()
    main(["compare", int8, bundle, "--images", str(data / "image"), *PIXELS, "--json"])
    both = json.loads(capsys.readouterr().out)
    assert min(one["agreement"] for one in both["models"].values()) > 0.999
    sets = ["--images", str(data / "image"), "--masks", str(data / "mask")]
    main(["evaluate", bundle, *sets, "--json"])
    assert json.loads(capsys.readouterr().out)["miou"] > 0.5


def test_labels_judge_where_there_are_some(
    net: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = ["--images", str(data / "image"), "--masks", str(data / "mask")]
    given = quantize(net, data, "--for", "onnxruntime", "--onnx", str(tmp_path / "a.onnx"), *PIXELS)
    main([*given, *sets, "--json"])
    record = json.loads(capsys.readouterr().out)
    assert record["float_miou"] > 0.5 and record["val_images"] == 4 and record["calibration_images"] == 12
    assert all(one["miou"] > 0.5 for one in record["candidates"])
    main([*given, "--images", str(data / "image"), "--json"])
    record = json.loads(capsys.readouterr().out)
    assert record["float_miou"] is None and record["val_images"] == 4


@pytest.mark.parametrize("backend", ["openvino", "tensorrt"])
def test_the_other_engines_int8(
    net: str, data: Path, tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = tmp_path / "typed"
    main([*quantize(net, data, "--for", backend, "--typed", str(typed), *PIXELS), "--json"])
    record = json.loads(capsys.readouterr().out)
    assert min(one["agreement"] for one in record["candidates"]) > 0.9
    if backend == "tensorrt":
        main(["check", str(typed / "class_map.onnx"), "--for", "tensorrt"])
        return
    bundle = str(tmp_path / "bundle")
    main(["build", str(typed), "--backend", backend, "--precision", "int8", "--bundle", bundle])
    main(["verify", bundle])


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_a_class_map_stays_the_output_and_open_sizes_stay_open(
    data: Path, tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The class is the brightest channel; INT8 may err where two are near."""
    ending = [("ArgMax", {"axis": 1, "keepdims": 0}), ("Cast", {"to": TensorProto.INT32})]
    path = by_hand(tmp_path / "open.onnx", shape=("n", 3, "h", "w"), ending=ending)
    out = tmp_path / "int8.onnx"
    more = ["--for", backend, "--onnx", str(out), "--std", "255", "255", "255", "--size", "32", "64"]
    main(quantize(str(path), data, *more))
    image = picture(7).image[None]

    def feed(*_: object) -> dict[str, np.ndarray]:
        return {"x": prepared(np.concatenate([image, image], axis=2), UNIT)}

    (call,) = open_file(out, "onnxruntime", threads=1, feeder=feed)
    (found,) = outputs_of(call())
    assert found.dtype == np.int32 and found.shape == (1, 32, 128)
    assert (found[0, :, :64] == image[0].argmax(axis=2)).mean() > 0.97


def test_evaluate_and_export_take_a_file(
    net: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = ["--images", str(data / "image"), "--masks", str(data / "mask")]
    named = ["--classes", "road", "sky", "car"]
    main(["evaluate", net, *sets, *PIXELS, *named, "--json"])
    score = json.loads(capsys.readouterr().out)
    assert score["miou"] > 0.5 and set(score["iou"]) == {"road", "sky", "car"}
    main(["evaluate", net, *sets, *PIXELS, "--flip", "--json"])
    assert json.loads(capsys.readouterr().out)["gated"] is False

    exported, bundle, kit = (str(tmp_path / name) for name in ("exported", "bundle", "kit"))
    main(["export", net, "--images", str(data / "image"), "--exported", exported, *PIXELS, *named, "--json"])
    record = json.loads(capsys.readouterr().out)
    assert record["parity"]["agreement"] == 1 and record["contract"]["model"] == "net"
    main(["build", exported, "--backend", "onnxruntime", "--precision", "fp32", "--bundle", bundle])
    capsys.readouterr()
    main(["evaluate", bundle, *sets, "--json"])
    assert json.loads(capsys.readouterr().out)["confusion"] == score["confusion"]
    main(["kit", bundle, "--device", "board", *sets, "--out", kit])
    main(["measure", kit, "--out", str(tmp_path / "measured")])
    assert (tmp_path / "measured" / "board.json").is_file()
    capsys.readouterr()
    assert "holds no reference.pt2" in refused(capsys, "parity", exported, "--images", str(data / "image"))
    assert "--mean is for an ONNX file" in refused(
        capsys, *quantize(exported, data, "--for", "onnxruntime", "--typed", "x", *PIXELS)
    )


def test_verbs_of_folders_say_what_a_file_needs(
    net: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = ["--images", str(data / "image"), "--masks", str(data / "mask")]
    wanted = ["--backend", "onnxruntime", "--precision", "fp32", "--bundle", str(tmp_path / "b")]
    for command in (
        ["build", net, *wanted],
        ["kit", net, "--device", "board", *sets, "--out", str(tmp_path / "kit")],
        ["verify", net],
    ):
        said = refused(capsys, *command)
        assert net in said and "`python -m deploy export` makes" in said
    said = refused(capsys, "export", str(data), "--images", str(data / "image"), *PIXELS, "--exported", "e")
    assert f"{data} is a folder; give the path of an ONNX file" in said
    said = refused(capsys, *quantize(str(data), data, "--for", "onnxruntime", "--typed", "t"))
    assert "contract.json is missing; `python -m deploy export` writes" in said
    said = refused(capsys, "evaluate", str(data), *sets)
    assert "manifest.json is missing; `python -m deploy build` writes" in said
    assert "give a second file or a bundle to hold it against" in refused(
        capsys, "parity", net, "--images", str(data / "image")
    )
    assert "is no kit: it has no kit.json; `python -m deploy kit`" in refused(capsys, "measure", net)


def test_what_quantize_must_be_told(
    net: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--onnx", str(tmp_path / "a.onnx")]
    given = quantize(net, data, "--for", "onnxruntime", *out)
    said = refused(capsys, *given)
    assert all(word in said for word in (net, "--mean 123.675", "--std 255 255 255", "--in-graph"))
    assert "multiply both by 255" in refused(capsys, *given, "--std", "0.229", "0.224", "0.225")
    assert "--mean 0.485" in refused(capsys, *given, "--mean", "0.485", "0.456", "0.406")
    assert "--classes names 'a' 2 times" in refused(capsys, *given, *PIXELS, "--classes", "a", "b", "a")
    assert "--std must be above 0" in refused(capsys, *given, "--std", "0", "1", "1")
    assert "leave --mean and --std out" in refused(capsys, *given, *PIXELS, "--in-graph")
    assert "--masks are of the images" in refused(capsys, *given, *PIXELS, "--masks", str(data))
    assert "say what to write" in refused(capsys, *quantize(net, data, "--for", "onnxruntime", *PIXELS))
    assert "take --typed" in refused(capsys, *quantize(net, data, "--for", "openvino", *out, *PIXELS))
    assert "nowhere.onnx does not exist" in refused(
        capsys, *quantize("nowhere.onnx", data, "--for", "onnxruntime", *out, *PIXELS)
    )
    half = by_hand(tmp_path / "half.onnx", kind=TensorProto.FLOAT16)
    model = onnx.load(half)
    assert model.graph.node[0].op_type == "Constant"
    assert "holds weights in float16" in refused(
        capsys, *quantize(str(half), data, "--for", "onnxruntime", *out, *PIXELS)
    )
    main([*given, *PIXELS])
    capsys.readouterr()
    again = quantize(out[1], data, "--for", "onnxruntime", *out, *PIXELS)
    assert "is quantised already" in refused(capsys, *again)


def test_one_image_cannot_calibrate_and_judge(
    net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "calibration").mkdir()
    given = quantize(net, tmp_path, "--for", "onnxruntime", "--onnx", str(tmp_path / "a.onnx"), *PIXELS)
    assert f"{tmp_path / 'calibration'} holds no image" in refused(capsys, *given)
    Image.fromarray(picture(0).image).save(tmp_path / "calibration" / "only.png")
    said = refused(capsys, *given)
    assert "only.png; at least two are needed" in said and "--images" in said


@pytest.mark.slow
def test_torchvisions_lraspp(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchvision.models.segmentation")
    torch.manual_seed(0)
    network = models.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=19).eval()
    path = tmp_path / "lraspp.onnx"
    torch.onnx.export(network, (torch.zeros(1, 3, 64, 128),), str(path), verbose=False)
    out = tmp_path / "int8.onnx"
    capsys.readouterr()
    main([*quantize(str(path), data, "--for", "onnxruntime", "--onnx", str(out), *PIXELS), "--json"])
    record = json.loads(capsys.readouterr().out)
    assert min(one["sqnr_db"] for one in record["candidates"]) > 20
    main(["compare", str(path), str(out), "--images", str(data / "image"), *PIXELS, "--json"])
    found = json.loads(capsys.readouterr().out)["models"]
    assert found[str(out)]["bytes"] < 0.3 * found[str(path)]["bytes"]


def test_blue_first_alone_leaves_values_of_0_to_1(data: Path, tmp_path: Path) -> None:
    net, exported, bundle = str(by_hand(tmp_path / "a.onnx")), str(tmp_path / "e"), str(tmp_path / "b")
    images = ["--images", str(data / "image")]
    main(["export", net, *images, "--std", "255", "255", "255", "--bgr", "--exported", exported])
    main(["build", exported, "--backend", "onnxruntime", "--precision", "fp32", "--bundle", bundle])
    main(["parity", bundle, net, *images, "--bgr"])
    with pytest.raises(SystemExit):
        main(["parity", bundle, net, *images])
