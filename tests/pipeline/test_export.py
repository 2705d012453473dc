"""The stages export, quantize and build in turn, on a real Segmenter with random weights."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
import torch
import yaml
from tiny import MODEL
from torch import nn

from afdcd.config import ModelConfig
from afdcd.data.manifest import Manifest
from afdcd.errors import UserError
from afdcd.files import read_json, sha256, write_json
from afdcd.models.segmenter import Segmenter, build_segmenter
from afdcd.models.store import ModelCard, load_trained, save_trained
from deploy import graph
from deploy.bundle import CLASS_MAP, LOGITS, Contract, read_contract, read_manifest, verify
from deploy.export import Exported
from deploy.hardware import describe
from deploy.parity import Parity
from deploy.sessions import open_backend, open_reference, open_session
from pipeline import build, export, paths, quantize

pytestmark = pytest.mark.xdist_group("shipping")

NAME = "teacher"
SIZE = [48, 96]
EDITS: dict[str, Any] = {
    "export": {"input_size": SIZE, "parity_images": 3},
    "quantize": {"calibration_images": 6, "val_images": 3},
}


def _trained(folder: Path, manifest: Manifest, **changes: Any) -> Segmenter:
    config = changes.pop("model", ModelConfig.model_validate(MODEL))
    torch.manual_seed(0)
    network = build_segmenter(config, manifest.num_classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Trained-like: timm starts some scales at zero, and the exporter merges equal (zero) biases.
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    facts: dict[str, Any] = {
        "model": config,
        "num_classes": manifest.num_classes,
        "classes": manifest.info.classes,
        "iteration": 1,
        "val_miou": None,
        "iterations": 1,
        "world_size": 1,
        "device": "cpu",
        "precision": "fp32",
        "torch_version": torch.__version__,
        "seconds": 1.0,
    }
    save_trained(folder, network, ModelCard.model_validate(facts | changes))
    return network.eval()


def _write(root: Path, prepared: Path, params_text: str) -> None:
    params = yaml.safe_load(params_text)
    for group, values in EDITS.items():
        params["deploy"][group] |= values
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    shutil.copytree(prepared, root / paths.PREPARED)
    _trained(root / paths.trained(NAME), Manifest.load(prepared))
    write_json(root / paths.HARDWARE, describe())


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, prepared: Path, params_text: str) -> Path:
    """A project where the three stages have run for three targets; to read only."""
    root = tmp_path_factory.mktemp("shipping")
    _write(root, prepared, params_text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        export.main([NAME])
        for target in ("ort_cpu_fp32", "ort_cpu_int8", "pytorch_fp32"):
            quantize.main([target, NAME])
            build.main([target, NAME])
    return root


@pytest.fixture
def here(chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, as the working folder."""
    root = tmp_path / "project"
    shutil.copytree(chain, root)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def change(here: Path) -> Callable[[str, dict[str, Any]], None]:
    """Edits one group of deploy's params."""

    def apply(group: str, values: dict[str, Any]) -> None:
        params = yaml.safe_load(Path("params.yaml").read_text())
        params["deploy"][group] |= values
        Path("params.yaml").write_text(yaml.safe_dump(params))

    return apply


@pytest.fixture
def limit(here: Path) -> Callable[[str, float | None], None]:
    """Sets a gate."""

    def apply(name: str, value: float | None) -> None:
        params = yaml.safe_load(Path("params.yaml").read_text())
        params["gates"][name] = value
        Path("params.yaml").write_text(yaml.safe_dump(params))

    return apply


def test_only_the_bare_student_is_exported(chain: Path) -> None:
    network, _ = load_trained(chain / paths.trained(NAME))
    assert network.auxiliary is not None
    bare = network.deployed()
    count = sum(parameter.numel() for parameter in bare.parameters())
    assert read_contract(chain / paths.exported(NAME)).parameters == count
    assert count < sum(parameter.numel() for parameter in network.parameters())
    folded = sum(
        layer.weight.numel() + layer.out_channels for layer in bare.modules() if isinstance(layer, nn.Conv2d)
    )
    for name in ("class_map.onnx", "logits.onnx"):
        model = onnx.load(chain / paths.exported(NAME) / name)
        assert graph.weight_elements(model) == folded + 2 * 3
        assert not any("auxiliary" in tensor.name for tensor in model.graph.initializer)


def test_the_contract_says_what_data_and_network_are(chain: Path) -> None:
    contract = read_contract(chain / paths.exported(NAME))
    manifest = Manifest.load(chain / paths.PREPARED)
    assert contract.classes == list(manifest.info.classes)
    assert contract.palette == list(manifest.info.palette)
    assert contract.normalisation.model_dump(mode="json") == MODEL["normalisation"]
    assert contract.weights_sha256 == sha256(chain / paths.trained(NAME) / "weights.safetensors")
    assert list(contract.geometry.size) == SIZE and contract.opset == 20


def test_parity_is_recorded_and_the_program_is_the_network(chain: Path) -> None:
    parity = read_json(chain / paths.exported(NAME) / "parity.json")
    assert parity["images"] == 3 * (1 + 2 + 3 + 4 + 5) and parity["agreement"] >= 0.9999
    found = {(case["kind"], *case["shape"]) for case in parity["cases"]}
    kinds = ("real", "uniform", "extremes")
    assert found == {(kind, batch, *SIZE) for kind in kinds for batch in (1, 2, 3, 4, 5)}
    network, _ = load_trained(chain / paths.trained(NAME))
    images = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    with torch.no_grad():
        small = network(torch.from_numpy(images).permute(0, 3, 1, 2)).logits
        wanted = nn.functional.interpolate(small, size=SIZE, mode="bilinear", align_corners=False)
    with open_reference(chain / paths.exported(NAME), threads=1) as session:
        np.testing.assert_allclose(session.logits(images), wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_every_target_becomes_a_bundle_that_runs(chain: Path) -> None:
    sizes = {}
    for target in ("ort_cpu_fp32", "ort_cpu_int8", "pytorch_fp32"):
        folder = chain / paths.engine(target, NAME)
        manifest = verify(folder)
        assert (manifest.model, manifest.target) == (NAME, target)
        assert manifest.hardware == read_json(chain / paths.HARDWARE)
        sizes[target] = manifest.size()
        with open_session(folder, threads=1) as session:
            assert session.infer(np.zeros((2, *SIZE, 3), dtype=np.uint8)).shape == (2, *SIZE)
    float_bundle = read_manifest(chain / paths.engine("ort_cpu_fp32", NAME))
    assert float_bundle.files["class_map.onnx"].sha256 == float_bundle.contract.graphs["class_map.onnx"]
    assert sizes["ort_cpu_int8"] < 0.8 * sizes["ort_cpu_fp32"]


def test_calibration_is_drawn_from_training_by_the_seed(here: Path) -> None:
    manifest = Manifest.load(paths.PREPARED)
    contract = read_contract(paths.exported(NAME))
    first = quantize.calibration_images(manifest, contract, 6, seed=0)
    assert np.array_equal(first, quantize.calibration_images(manifest, contract, 6, seed=0))
    assert not np.array_equal(first, quantize.calibration_images(manifest, contract, 6, seed=1))
    training = {manifest.image(entry).tobytes() for entry in manifest.split("train")}
    assert len(first) == 6 and all(image.tobytes() in training for image in first)


def test_exporting_and_quantising_again_gives_the_same_bytes(here: Path) -> None:
    folders = [paths.exported(NAME), paths.typed("ort_cpu_int8", NAME)]
    before = {path: path.read_bytes() for folder in folders for path in folder.iterdir()}
    export.main([NAME])
    quantize.main(["ort_cpu_int8", NAME])
    assert {path: path.read_bytes() for folder in folders for path in folder.iterdir()} == before


def test_quantising_and_building_import_no_torch(here: Path) -> None:
    code = (
        "import sys\n"
        "from pipeline import quantize, build\n"
        f"quantize.main(['ort_cpu_int8', '{NAME}'])\n"
        f"build.main(['ort_cpu_int8', '{NAME}'])\n"
        "assert not {'torch', 'torchvision'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _fails(stage: str, *given: str) -> str:
    """The one sentence of a stage that fails as a command."""
    done = subprocess.run([sys.executable, "-m", f"pipeline.{stage}", *given], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


def test_a_tensorrt_target_is_refused_on_a_machine_without_a_gpu(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.sessions.capability.nvidia_driver", lambda: False)
    with pytest.raises(UserError, match="target trt_fp16 needs an NVIDIA GPU with a driver"):
        build.main(["trt_fp16", NAME])
    assert not paths.engine("trt_fp16", NAME).exists()


def test_an_altered_export_is_refused_as_one_sentence(here: Path) -> None:
    path = paths.exported(NAME) / "class_map.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    line = _fails("quantize", "ort_cpu_int8", NAME)
    assert line.startswith("error: models/exported/teacher/class_map.onnx is not the file")


def test_truncated_weights_are_refused_as_one_sentence(here: Path) -> None:
    path = paths.trained(NAME) / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert "weights.safetensors" in _fails("export", NAME)
    verify(paths.engine("ort_cpu_fp32", NAME))


def test_parity_below_the_limit_is_refused_and_keeps_the_last_export(
    here: Path, limit: Callable[[str, float | None], None]
) -> None:
    before = read_contract(paths.exported(NAME))
    with pytest.raises(
        UserError,
        match=r"gates.export_max_relative_error is missed by largest relative error .* \(at most 1.0e-12\); "
        r".*accept it by gates.export_max_relative_error$",
    ):
        limit("export_max_relative_error", 1e-12)
        export.main([NAME])
    assert read_contract(paths.exported(NAME)) == before
    limit("export_max_relative_error", None)
    export.main([NAME])


def test_agreement_below_the_limit_is_refused(
    here: Path, limit: Callable[[str, float | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    poor = Parity(images=3, agreement=0.9998, max_relative_error=1e-6, sqnr_db=100.0)
    monkeypatch.setattr(export, "suite", lambda *given: poor)
    said = r"gates.export_min_agreement is missed by agreement 0.999800 \(at least 0.9999\)"
    with pytest.raises(UserError, match=said):
        export.main([NAME])
    limit("export_min_agreement", 0.9998)
    export.main([NAME])


@pytest.mark.slow
def test_a_fault_of_the_exporter_is_told_with_its_tensor(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = export.export

    def faulty(network: Segmenter, contract: Contract) -> Exported:
        made = honest(network, contract)
        for name in (CLASS_MAP, LOGITS):
            model = onnx.load_from_string(made.files[name])
            (tensor,) = [t for t in model.graph.initializer if t.name.endswith("layer3.0.conv1.weight")]
            values = onnx.numpy_helper.to_array(tensor) * np.float32(1.1)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
            made.files[name] = graph.to_bytes(model)
        return made

    monkeypatch.setattr(export, "export", faulty)
    with pytest.raises(UserError, match=r"first tensor that differs is '\w+', of Conv with .*layer3.0.conv1"):
        export.main([NAME])


@pytest.mark.slow
@pytest.mark.parametrize("head", ["psp", "deeplabv3"])
def test_a_dynamic_export_is_right_at_sizes_it_was_not_exported_at(
    here: Path, change: Callable[[str, dict[str, Any]], None], head: str
) -> None:
    change("export", {"dynamic": {"height": [33, 200], "width": [40, 300], "multiple": 1}})
    network = _trained(paths.trained(NAME), Manifest.load(paths.PREPARED), model=tiny.model(head=head))
    export.main([NAME])
    parity = read_json(paths.exported(NAME) / "parity.json")
    assert len({tuple(case["shape"][1:]) for case in parity["cases"]}) == 5
    contract = read_contract(paths.exported(NAME))
    read = {name: (paths.exported(NAME) / name).read_bytes() for name in contract.graphs}
    with open_backend("onnxruntime", contract, read.__getitem__, threads=1) as session:
        for size in ((33, 41), (64, 64), (97, 131), (136, 203), (181, 299)):
            images = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
            with torch.no_grad():
                small = network(torch.from_numpy(images).permute(0, 3, 1, 2)).logits
                wanted = nn.functional.interpolate(small, size=size, mode="bilinear", align_corners=False)
            assert (session.infer(images) == wanted.argmax(dim=1).numpy()).mean() >= 0.9999


def test_a_network_of_other_classes_is_refused(here: Path) -> None:
    manifest = Manifest.load(paths.PREPARED)
    others = tuple(reversed(manifest.info.classes))
    _trained(paths.trained(NAME), manifest, classes=others)
    with pytest.raises(UserError, match="train it on these data"):
        export.main([NAME])


def test_a_data_set_without_training_images_cannot_calibrate(here: Path) -> None:
    rows = Path(paths.PREPARED / "manifest.jsonl")
    kept = [line for line in rows.read_text().splitlines() if '"train"' not in line]
    rows.write_text("\n".join(kept) + "\n")
    with pytest.raises(UserError, match="no split 'train'"):
        quantize.main(["ort_cpu_int8", NAME])
