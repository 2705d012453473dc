from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.sessions.capability import nvidia_driver
from pipeline import params, probe

Edited = Callable[[dict[str, Any]], str]


def run(folder: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-m", "pipeline.probe"],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def files(folder: Path) -> dict[str, bytes]:
    found = [folder / "reports/hardware.json", *(folder / "fingerprints").rglob("*.json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_it_writes_the_machine_and_a_fingerprint_a_stage_and_twice_the_same(project: Path) -> None:
    probe.main([])
    first = files(project)
    assert "cpu" in json.loads(first["reports/hardware.json"])
    assert {"fingerprints/prepare.json", "fingerprints/distill/kd.json"} <= set(first)
    probe.main([])
    assert files(project) == first


def test_it_does_not_import_torch(project: Path) -> None:
    done = run(project, "-X", "importtime")
    assert done.returncode == 0, done.stderr
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pipeline.checks" in modules and not modules & {"torch", "timm", "onnxruntime", "torchvision"}


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"distill.recipes.kd.kd.temprature": 1.0}, "did you mean 'temperature'?"),
        ({"train.schedule.batch_size": 0}, "train.schedule.batch_size: 0"),
        ({"dataset.root": "nowhere"}, "dataset.root: 'nowhere' does not exist"),
        ({"train.practice.augment.crop": [8, 8]}, "smaller than one contrast patch"),
        ({"runtime.processes": 3}, "not divisible by 3 process(es)"),
    ],
)
def test_bad_input_is_one_sentence_a_mistake_and_writes_nothing(
    project: Path, edited: Edited, edit: dict[str, Any], said: str
) -> None:
    (project / "params.yaml").write_text(edited(edit), encoding="utf-8")
    done = run(project)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and said in done.stderr and "Traceback" not in done.stderr
    assert not (project / "reports").exists() and not (project / "fingerprints").exists()


def test_both_onnxruntimes_installed_are_refused(project: Path) -> None:
    for name in ("onnxruntime", "onnxruntime_gpu"):
        folder = project / f"site/{name}-1.99.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.99.0\n", encoding="utf-8"
        )
    site = os.pathsep.join([str(project / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = run(project, PYTHONPATH=site)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "onnxruntime and onnxruntime-gpu are both installed" in done.stderr
    assert "pip uninstall both" in done.stderr and not (project / "reports").exists()


@pytest.mark.skipif(nvidia_driver(), reason="this machine has an NVIDIA GPU")
def test_a_tensorrt_target_here_without_a_gpu_is_one_sentence(project: Path, edited: Edited) -> None:
    edits = {"deploy.targets": ["ort_cpu_fp32", "trt_fp16"], "deploy.specs.trt_fp16.where": "here"}
    (project / "params.yaml").write_text(edited(edits), encoding="utf-8")
    done = run(project)
    assert (done.returncode, done.stdout) == (1, "") and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: params.yaml: target trt_fp16 needs an NVIDIA GPU with a driver")
    assert not (project / "reports").exists() and not (project / "fingerprints").exists()


def test_a_checkpoint_and_weights_files_count_in_the_fingerprint(project: Path, edited: Edited) -> None:
    (project / "teacher.safetensors").write_bytes(b"one")
    (project / "params.yaml").write_text(
        edited({"teacher.checkpoint": "teacher.safetensors"}), encoding="utf-8"
    )
    assert params.load().teacher.checkpoint
    probe.main([])
    first = files(project)
    (project / "teacher.safetensors").write_bytes(b"two")
    probe.main([])
    second = files(project)
    assert {name for name in first if first[name] != second[name]} == {"fingerprints/train_teacher.json"}
