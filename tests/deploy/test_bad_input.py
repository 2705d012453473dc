"""Bad input at the command line: exit 1, no traceback, a message that names thing, place and remedy.

A plan of another version is in tests/deploy/tensorrt/test_command.py, a measurement of another model in
tests/pipeline/test_elsewhere.py.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from foreign_onnx import by_hand, export_plain
from little_net import SIZE, LittleNet, write_pictures

from afdcd.files import read_json, write_json
from deploy.__main__ import main
from deploy.bundle import CLASS_MAP, CONTRACT, QUANTISATION, write_model
from deploy.export import Exported
from deploy.quantize import Typed

pytestmark = pytest.mark.xdist_group("little")

ENGINES = [["--backend", "onnxruntime"], ["--backend", "openvino"]]


@pytest.fixture
def images(tmp_path: Path) -> str:
    """Three pictures, and their masks in the folder masks beside it."""
    write_pictures(tmp_path / "images", range(3), tmp_path / "masks")
    return str(tmp_path / "images")


def told(capsys: pytest.CaptureFixture[str], *given: object) -> str:
    """The one line of a command that ends with exit 1; anything but a UserError would come through here."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in given])
    said = capsys.readouterr().err
    assert ended.value.code == 1 and said.startswith("error: ") and said.count("\n") == 1, said
    return said


def write_exported(folder: Path, exported: Exported) -> Path:
    folder.mkdir()
    for name, content in exported.files.items():
        (folder / name).write_bytes(content)
    write_model(folder / CONTRACT, exported.contract)
    return folder


def test_weights_of_a_second_file_that_is_missing(
    little: LittleNet, tmp_path: Path, images: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = export_plain(tmp_path / "net.onnx", little, external=True)
    shutil.copy(path, tmp_path / "whole.onnx")
    (tmp_path / "net.onnx.data").unlink()
    more = ["--std", "255", "255", "255"]
    for command in (
        *(["benchmark", path, *engine] for engine in ENGINES),
        ["compare", path, tmp_path / "whole.onnx"],
        ["check", path, "--for", "onnxruntime"],
        ["evaluate", path, "--images", images, "--masks", tmp_path / "masks", *more],
        ["export", path, "--images", images, "--exported", tmp_path / "e", *more],
        [
            *("quantize", path, "--for", "onnxruntime", "--calibration", images),
            *("--onnx", tmp_path / "a.onnx", *more),
        ],
    ):
        said = told(capsys, *command)
        assert f"{path} keeps weights in the file net.onnx.data, which is not beside it" in said
        assert f"copy net.onnx.data to {tmp_path}, or export the network into one file" in said


def test_an_engine_that_is_not_what_its_manifest_says(
    bundle: Callable[[str], Path], tmp_path: Path, images: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bundle("ort_cpu_fp32")
    good = shutil.copytree(folder, tmp_path / "good")
    content = bytearray((folder / CLASS_MAP).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / CLASS_MAP).write_bytes(content)
    sets = ["--images", images, "--masks", tmp_path / "masks"]
    for command in (
        ["verify", folder],
        ["evaluate", folder, *sets],
        ["benchmark", folder],
        ["compare", good, folder],
        ["compare", folder, good],
        ["kit", folder, "--device", "board", *sets, "--out", tmp_path / "kit"],
        ["serve", folder, "--port", "0", "--no-grpc"],
    ):
        said = told(capsys, *command)
        assert str(folder / CLASS_MAP) in said and "SHA-256 differs" in said and "build it again" in said


def test_a_program_that_asks_for_pickle(
    exported: Exported, tmp_path: Path, images: str, capsys: pytest.CaptureFixture[str]
) -> None:
    program = torch.export.export(torch.nn.Conv2d(3, 2, 1).eval(), (torch.zeros(1, 3, *SIZE),))
    path = tmp_path / "theirs.pt2"
    torch.export.save(program, path)
    said = told(capsys, "export", path, "--images", images, "--exported", tmp_path / "exported")
    assert str(path) in said and "pickled" in said and "save_program writes a .pt2 without pickle" in said
    assert not (tmp_path / "exported").exists()


def test_a_calibration_folder_without_images(
    exported: Exported, tmp_path: Path, images: str, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "calibration"
    folder = write_exported(tmp_path / "exported", exported)
    given = ["--for", "onnxruntime", "--calibration", empty, "--typed", tmp_path / "typed"]
    net = by_hand(tmp_path / "a.onnx")
    for network, more in ((folder, []), (folder, ["--images", images]), (net, ["--in-graph"])):
        said = told(capsys, "quantize", network, *given, *more)
        assert f"{empty} is no folder; give one with calibration images" in said
    empty.mkdir()
    (empty / "notes.txt").write_text("no image")
    for network, more in ((folder, []), (folder, ["--images", images]), (net, ["--in-graph"])):
        said = told(capsys, "quantize", network, *given, *more)
        assert f"{empty} holds no image (.bmp, .jpeg, .jpg, .png" in said and "put some there" in said
    assert not (tmp_path / "typed").exists()


def test_a_quantised_graph_that_tensorrt_would_misread(
    int8: Typed,
    typed: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Unsigned activations, which TensorRT reads as signed ones."""
    path = tmp_path / "int8.onnx"
    path.write_bytes(int8.files[CLASS_MAP])
    with pytest.raises(SystemExit) as ended:
        main(["check", str(path), "--for", "tensorrt"])
    shown = capsys.readouterr()
    assert ended.value.code == 1 and f"{path} is not sound for tensorrt" in shown.err
    assert "unsigned" in shown.out and "node" in shown.out
    monkeypatch.setattr("deploy.build.check_target", lambda name, spec: None)  # as if on a GPU
    given = ["--backend", "tensorrt", "--precision", "int8", "--bundle", tmp_path / "bundle"]
    folder = typed("ort_cpu_int8")
    said = told(capsys, "build", folder, *given)
    assert f"{folder} is quantised for another engine (preset u8s8_per_channel)" in said
    assert "tensorrt takes s8s8_symmetric; python -m deploy quantize --for tensorrt" in said
    # A record that says otherwise does not help: the graph itself is looked at.
    write_json(folder / QUANTISATION, {**read_json(folder / QUANTISATION), "preset": "s8s8_symmetric"})
    said = told(capsys, "build", folder, *given)
    assert "class_map.onnx is not sound for tensorrt: node " in said and "signed" in said
    assert not (tmp_path / "bundle").exists()


def test_a_size_that_the_engine_does_not_take(
    bundle: Callable[[str], Path],
    dynamic: Exported,
    tmp_path: Path,
    images: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = bundle("ort_cpu_fp32")
    sets = ["--images", images, "--masks", tmp_path / "masks"]
    said = told(capsys, "evaluate", folder, *sets, "--crop", "48", "64")
    assert "little takes images of shape (B, 32, 64, 3), got (1, 48, 64, 3)" in said
    assert "Export for other sizes" in said
    path = tmp_path / "dynamic.onnx"
    path.write_bytes(dynamic.files[CLASS_MAP])
    fixed = by_hand(tmp_path / "fixed.onnx")
    for engine in ENGINES:
        said = told(capsys, "benchmark", fixed, *engine, "--shape", "1x3x48x64")
        assert (
            f"{fixed}: input 'x' takes 1x3x32x64, --shape asks for 1x3x48x64; ask for what it takes" in said
        )
    one = by_hand(tmp_path / "one.onnx")
    more = ["--images", images, "--exported", tmp_path / "exported", "--in-graph"]
    main(["export", str(one), *map(str, more)])
    wanted = ["--backend", "onnxruntime", "--precision", "fp32", "--bundle", tmp_path / "one"]
    main(["build", str(tmp_path / "exported"), *map(str, wanted)])
    said = told(capsys, "benchmark", tmp_path / "one", "--batch-size", "4")
    assert "one takes images of shape (1, 32, 64, 3), got (4, 32, 64, 3); give 1 a call" in said


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("domain", ["", "own"])
def test_an_operator_that_nobody_knows(
    tmp_path: Path, images: str, engine: list[str], domain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = by_hand(tmp_path / "odd.onnx", operator="Wobble")
    model = onnx.load(path)
    model.graph.node[1].name, model.graph.node[1].domain = "the_node", domain
    if domain:
        model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    onnx.save(model, path)
    operator = f"{domain}:Wobble" if domain else "Wobble"
    for verb in ("benchmark", "compare"):
        others = [by_hand(tmp_path / "good.onnx")] if verb == "compare" else []
        said = told(capsys, verb, path, *others, *engine)
        assert f"{path}: {engine[1]} does not know the operator {operator} of node 'the_node'" in said
        assert "export the network without it" in said
    given = ["--calibration", images, "--onnx", tmp_path / "a.onnx", "--in-graph"]
    said = told(capsys, "quantize", path, "--for", engine[1].replace("openvino", "tensorrt"), *given)
    assert (
        f"{path} holds the node 'the_node' of the operator" in said
        and "write that step with standard" in said
    )
    with pytest.raises(SystemExit):
        main(["check", str(path), "--for", engine[1], "--json"])
    assert "the_node" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("backend", "provider"),
    [("onnxruntime_cuda", "CUDAExecutionProvider"), ("onnxruntime_tensorrt", "TensorrtExecutionProvider")],
)
def test_a_provider_that_is_not_there(
    typed: Callable[[str], Path],
    tmp_path: Path,
    backend: str,
    provider: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = by_hand(tmp_path / "a.onnx")
    for command in (["benchmark", path], ["compare", path, by_hand(tmp_path / "b.onnx")]):
        said = told(capsys, *command, "--backend", backend)
        assert f"has no {provider}, only " in said and "install onnxruntime-gpu alone" in said
    given = ["--backend", backend, "--precision", "fp32", "--bundle", tmp_path / "bundle"]
    folder = typed("ort_cpu_fp32")
    said = told(capsys, "build", folder, *given)
    assert "needs an NVIDIA GPU with a driver" in said and "measure on such a machine" in said
    monkeypatch.setattr("deploy.sessions.capability.nvidia_driver", lambda: True)
    said = told(capsys, "build", folder, *given)
    assert "needs the package onnxruntime-gpu, which is not installed" in said and "pip install" in said
    assert not (tmp_path / "bundle").exists()


def test_the_process_itself_ends_without_a_traceback(tmp_path: Path) -> None:
    """The same way for all: what `main` raises is what the interpreter ends with."""
    path = by_hand(tmp_path / "a.onnx", shape=(1, 4, 8, 8))
    command = [
        "quantize",
        path,
        "--for",
        "onnxruntime",
        "--calibration",
        tmp_path,
        "--onnx",
        "x",
        "--in-graph",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "deploy", *map(str, command)], capture_output=True, text=True, cwd=Path.cwd()
    )
    assert done.returncode == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"error: {path} takes x float 1x4x8x8; it must take one float32")
