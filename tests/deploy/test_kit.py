"""A kit's files, what a device makes of it, and what is refused of either."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from little_net import picture
from PIL import Image

from afdcd.errors import UserError
from afdcd.files import read_json, write_json
from deploy import __main__ as command
from deploy import measurement as module
from deploy.config import TargetConfig
from deploy.kit import KIT, read_kit, verify_kit
from deploy.measurement import read_measurement, take

pytestmark = pytest.mark.xdist_group("little")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def kit(tmp_path: Path, bundle: Callable[[str], Path]) -> Path:
    """Two targets of the little network and four pictures, by the command."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    for folder in (images, masks):
        folder.mkdir()
    for number in range(4):
        sample = picture(number)
        Image.fromarray(sample.image).save(images / f"picture {number}.png")
        Image.fromarray(sample.labels).save(masks / f"picture {number}.png")
    folder = tmp_path / "board"
    given = ["kit", str(bundle("ort_cpu_fp32")), str(bundle("ort_cpu_int8")), "--device", "board"]
    command.main([*given, "--images", str(images), "--masks", str(masks), "--out", str(folder)])
    return quick(folder)


def quick(folder: Path) -> Path:
    """The same kit with fewer calls to time."""
    value = read_json(folder / KIT)
    value["benchmark"] |= {"iterations": 3, "rounds": 2, "warmup": 1}
    write_json(folder / KIT, value)
    return folder


def silent(line: str) -> None:
    pass


def test_a_kit_is_measured_without_torch_and_by_the_evaluator(kit: Path, tmp_path: Path) -> None:
    """In a process of its own, where torch and training code must not come along."""
    code = (
        "import sys; from deploy.__main__ import main; "
        f"main(['measure', {str(kit)!r}, '--out', {str(tmp_path / 'back')!r}]); "
        "loaded = [name for name in ('torch', 'dvc', 'afdcd.models', 'afdcd.training', 'pipeline', "
        "'afdcd.losses') if name in sys.modules]; sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "COLUMNS": "160"},
    )
    assert done.returncode == 0, done.stderr
    found = read_measurement(tmp_path / "back/board.json")
    assert list(found.targets) == ["ort_cpu_fp32", "ort_cpu_int8"]
    known = read_kit(kit).references["little"]
    exact = found.targets["ort_cpu_fp32"].scores["little"]
    assert exact.agreement == 1.0 and exact.miou == known.miou and exact.images == 4
    narrow = found.targets["ort_cpu_int8"]
    assert narrow.timing is not None and narrow.timing.work["little"].precision == "int8"
    assert narrow.scores["little"].agreement is not None and narrow.scores["little"].agreement > 0.8
    assert narrow.timing is not None and narrow.timing.models["little"].speedup == 1.0
    engine = tmp_path / "back/board/ort_cpu_int8/little"
    assert read_json(engine / "manifest.json") == narrow.engines["little"].model_dump(mode="json")
    assert "take" in done.stdout and "little" in done.stdout


def test_a_device_without_onnx_measures_all_but_the_work(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys; sys.modules['onnx'] = None; import deploy.cli.measure"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    lines: list[str] = []
    found = take(kit, tmp_path / "back", tell=lines.append)
    timing = found.targets["ort_cpu_fp32"].timing
    assert timing is not None and timing.models["little"].latency_ms.p50 > 0
    assert timing.work == {} and timing.peak is None
    assert any(
        "onnx is not installed here, so work and share of the machine's peak" in line for line in lines
    )


def test_what_it_cannot_run_is_told_with_the_reason(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = module.capability
    reason = "needs what this board has not"
    monkeypatch.setattr(module, "capability", lambda b, p: reason if p == "int8" else whole(b, p))
    found = take(kit, tmp_path / "back", tell=silent)
    assert found.targets["ort_cpu_int8"].reason == reason and found.targets["ort_cpu_int8"].timing is None
    assert found.targets["ort_cpu_fp32"].reason is None
    monkeypatch.setattr(module, "capability", lambda b, p: reason)
    with pytest.raises(UserError, match=f"(?s)no target of .*ort_cpu_int8: {reason}"):
        take(kit, tmp_path / "nothing", tell=silent)
    assert not (tmp_path / "nothing").exists()


def test_an_engine_that_fails_there_is_a_reason(kit: Path, tmp_path: Path) -> None:
    graph = kit / "graphs/ort_cpu_int8/little/class_map.onnx"
    graph.write_bytes(b"no graph")
    value = read_json(kit / KIT)
    value["files"][graph.relative_to(kit).as_posix()] = {"sha256": module.sha256(graph), "bytes": 8}
    write_json(kit / KIT, value)
    found = take(kit, tmp_path / "back", tell=silent)
    assert "class_map.onnx" in (found.targets["ort_cpu_int8"].reason or "")
    assert found.targets["ort_cpu_fp32"].timing is not None


@pytest.mark.parametrize("fault", ["altered", "missing", "no kit", "version"])
def test_a_damaged_kit_is_refused(kit: Path, fault: str) -> None:
    image = kit / read_kit(kit).samples[0].image
    if fault == "altered":
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image)
    elif fault == "missing":
        image.unlink()
    elif fault == "no kit":
        (kit / KIT).unlink()
    else:
        write_json(kit / KIT, {**read_json(kit / KIT), "format": 2})
    said = {"altered": "SHA-256 differs", "missing": "is missing", "no kit": "is no kit", "version": "format"}
    with pytest.raises(UserError, match=said[fault]):
        verify_kit(kit)


def test_an_edited_measurement_is_refused(kit: Path, tmp_path: Path) -> None:
    take(kit, tmp_path, tell=silent)
    path = tmp_path / "board.json"
    value = json.loads(path.read_text())
    value["targets"]["ort_cpu_fp32"]["scores"]["little"]["miou"] = 0.99
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match="edited or damaged"):
        read_measurement(path)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match="no measurement of this version"):
        read_measurement(path)
    with pytest.raises(UserError, match="is missing"):
        read_measurement(tmp_path / "other.json")


def test_gates_judge_a_measurement_and_do_not_belong_to_it(kit: Path) -> None:
    before = read_kit(kit)
    gates = before.gates.model_copy(update={"max_size_mb": 1.0})
    assert before.model_copy(update={"gates": gates}).key() == before.key()
    spec = TargetConfig(backend="onnxruntime", precision="fp32", where="board", threads=2)
    targets = {**before.targets, "ort_cpu_fp32": spec}
    assert before.model_copy(update={"targets": targets}).key() != before.key()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--device": "my board"}, "no possible name"),
        ({"--images": "nowhere"}, "is no folder"),
        ({"twice": "yes"}, "give one"),
    ],
)
def test_what_makes_no_kit(
    kit: Path,
    bundle: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    said: str,
) -> None:
    first = tmp_path / "engines/ort_cpu_fp32"
    bundles = [str(first)]
    if "twice" in change:
        shutil.copytree(first, tmp_path / "again")
        bundles.append(str(tmp_path / "again"))
    options = {"--device": "board", "--images": str(tmp_path / "images"), "--masks": str(tmp_path / "masks")}
    options |= {key: value for key, value in change.items() if key.startswith("--")}
    before = (kit / KIT).read_bytes()
    with pytest.raises(SystemExit) as ended:
        command.main(
            ["kit", *bundles, *(word for pair in options.items() for word in pair), "--out", str(kit)]
        )
    assert ended.value.code == 1 and said in capsys.readouterr().err
    assert (kit / KIT).read_bytes() == before
