"""The rules of the house, held by tools: who may import whom, types, style, and what stays free of torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("afdcd", "deploy", "pipeline")
BIN = Path(sys.executable).parent

TORCH_FREE = (
    *(
        "afdcd",
        "afdcd.config",
        "afdcd.errors",
        "afdcd.files",
        "afdcd.metrics",
        "afdcd.geometry",
        "afdcd.plugins",
    ),
    *(
        "afdcd.data.manifest",
        "afdcd.data.sources",
        "afdcd.losses",
        "afdcd.losses.recipe",
        "afdcd.models.names",
    ),
    *("deploy", "deploy.config", "deploy.bundle", "deploy.sessions", "deploy.sessions.onnxruntime"),
    *("deploy.sessions.tensorrt", "deploy.tensorrt.dry", "deploy.tensorrt.store"),
    *("deploy.sessions.capability", "deploy.evaluate", "deploy.benchmark", "deploy.benchmark_worker"),
    *("deploy.hardware", "deploy.gates", "deploy.latency", "deploy.quantize"),
    *(
        "pipeline",
        "pipeline.probe",
        "pipeline.configure",
        "pipeline.summary",
        "pipeline.prepare",
        "pipeline.launch",
    ),
    *("pipeline.quantize", "pipeline.build", "pipeline.evaluate", "pipeline.benchmark"),
    *("pipeline.report", "pipeline.gate", "pipeline.release"),
)
"""Modules whose start must not pay for torch: the ground floor, deploy's runtime, and the quick stages."""


def tool(*command: str) -> None:
    done = subprocess.run(
        [BIN / command[0], *command[1:]],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout


def test_ruff() -> None:
    tool("ruff", "check", ".")


def test_format() -> None:
    tool("ruff", "format", "--check", ".")


def test_mypy_strict() -> None:
    tool("mypy")


def test_import_rules() -> None:
    tool("lint-imports")


def loaded_by(*modules: str) -> set[str]:
    """Names of all modules in a fresh interpreter after importing some."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_no_torch_where_it_is_not_needed() -> None:
    assert not loaded_by(*TORCH_FREE) & {"torch", "torchvision", "timm"}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_nothing_by_itself(package: str) -> None:
    assert {name for name in loaded_by(package) if name.split(".")[0] in PACKAGES} == {package}


def test_constraints_name_no_host_and_one_onnxruntime() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    names = {line.partition("==")[0].lower() for line in text}
    assert "onnxruntime" in names and "onnxruntime-gpu" not in names
    assert all(line.count("==") == 1 and not set(line) & set("/@: ") for line in text), (
        "bare name==version lines only"
    )
