from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from afdcd.errors import UserError
from afdcd.files import read_json, sha256, write_json
from deploy import build as module
from deploy.build import build
from deploy.bundle import CLASS_MAP, LOGITS, PROGRAM, read_manifest, verify
from deploy.config import TargetConfig

pytestmark = pytest.mark.xdist_group("little")

FLOAT = TargetConfig(backend="onnxruntime", precision="fp32", where="here", threads=1)


def _build(typed: Path, folder: Path, spec: TargetConfig = FLOAT) -> None:
    build(typed, folder, target="ort_cpu_fp32", spec=spec, hardware={})


@pytest.mark.parametrize(
    ("target", "files"),
    [
        ("ort_cpu_fp32", {CLASS_MAP, LOGITS}),
        ("ort_cpu_int8", {CLASS_MAP, LOGITS}),
        ("pytorch_fp32", {PROGRAM}),
    ],
)
def test_a_bundle_describes_its_files(bundle: Callable[[str], Path], target: str, files: set[str]) -> None:
    folder = bundle(target)
    manifest = verify(folder)
    assert {path.name for path in folder.iterdir()} == {*files, "manifest.json"}
    assert manifest.target == target and manifest.measured is None
    assert manifest.hardware == {"cpu": "of a test"}
    assert {"python", "onnxruntime", "torch"} <= manifest.versions.keys()
    assert {name: record.sha256 for name, record in manifest.files.items()} == {
        name: sha256(folder / name) for name in files
    }
    shipped = PROGRAM if target == "pytorch_fp32" else CLASS_MAP
    assert manifest.size() == (folder / shipped).stat().st_size
    if manifest.precision == "fp32":
        assert all(manifest.contract.graphs[name] == sha256(folder / name) for name in files)
    else:
        assert manifest.quantisation["chosen"] in ("minmax", "percentile")


def test_building_twice_gives_the_same_bytes(typed: Callable[[str], Path], tmp_path: Path) -> None:
    source = typed("ort_cpu_fp32")
    for name in ("first", "second"):
        _build(source, tmp_path / name)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_a_broken_engine_fails_here_and_leaves_nothing(typed: Callable[[str], Path], tmp_path: Path) -> None:
    source = typed("ort_cpu_fp32")
    (source / CLASS_MAP).write_bytes(b"no graph")
    with pytest.raises(UserError, match="class_map.onnx is damaged or no ONNX file"):
        _build(source, tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_an_engine_with_other_shapes_than_its_contract_fails_here(
    typed: Callable[[str], Path], tmp_path: Path
) -> None:
    source = typed("ort_cpu_fp32")
    contract = read_json(source / "contract.json")
    contract["classes"].append("more")
    write_json(source / "contract.json", contract)
    with pytest.raises(UserError, match=r"logits \(1, 3, 32, 64\), its contract promises .*\(1, 4, 32, 64\)"):
        _build(source, tmp_path / "engine")


@pytest.mark.parametrize("twin", [CLASS_MAP, LOGITS])
def test_a_missing_twin_fails_here(typed: Callable[[str], Path], tmp_path: Path, twin: str) -> None:
    source = typed("ort_cpu_fp32")
    (source / twin).unlink()
    with pytest.raises(UserError, match=f"was built without {twin}; build it again"):
        _build(source, tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_a_broken_logits_twin_fails_here(typed: Callable[[str], Path], tmp_path: Path) -> None:
    source = typed("ort_cpu_fp32")
    model = onnx.load(source / LOGITS)
    model.graph.output[0].name = "others"
    onnx.save(model, source / LOGITS)
    with pytest.raises(UserError, match=r"cannot load logits.onnx"):
        _build(source, tmp_path / "engine")


def test_a_failed_build_keeps_the_bundle_that_stood_there(
    typed: Callable[[str], Path], tmp_path: Path
) -> None:
    source = typed("ort_cpu_fp32")
    _build(source, tmp_path / "engine")
    before = read_manifest(tmp_path / "engine")
    (source / CLASS_MAP).write_bytes(b"no graph")
    with pytest.raises(UserError):
        _build(source, tmp_path / "engine")
    assert verify(tmp_path / "engine") == before


def test_a_target_of_another_machine_is_refused(
    typed: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.sessions.capability.nvidia_driver", lambda: False)
    spec = TargetConfig(backend="tensorrt", precision="fp16", where="here", threads=1)
    with pytest.raises(UserError, match="needs an NVIDIA GPU"):
        _build(typed("ort_cpu_fp32"), tmp_path / "engine", spec)


def test_an_empty_typed_folder_is_refused(typed: Callable[[str], Path], tmp_path: Path) -> None:
    source = typed("ort_cpu_fp32")
    for name in (CLASS_MAP, LOGITS):
        (source / name).unlink()
    with pytest.raises(UserError, match="holds no graph"):
        _build(source, tmp_path / "engine")
    assert module.build is build
