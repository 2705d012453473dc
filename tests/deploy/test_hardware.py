from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import hardware

CPUINFO = """processor\t: 0
model name\t: Some CPU 9000
physical id\t: 0
core id\t: 0
flags\t\t: fpu avx2 fma avx512_vnni

processor\t: 1
model name\t: Some CPU 9000
physical id\t: 0
core id\t: 0
flags\t\t: fpu avx2 fma avx512_vnni

processor\t: 2
model name\t: Some CPU 9000
physical id\t: 0
core id\t: 1
flags\t\t: fpu avx2 fma avx512_vnni
"""


def test_cpu_counts_only_the_cores_of_this_process() -> None:
    assert hardware.parse_cpuinfo(CPUINFO, {0, 1, 2}) == {
        "model": "Some CPU 9000",
        "physical_cores": 2,
        "logical_cores": 3,
        "instructions": ["avx2", "fma", "avx512_vnni"],
    }
    narrow = hardware.parse_cpuinfo(CPUINFO, {1})
    assert (narrow["physical_cores"], narrow["logical_cores"]) == (1, 1)


def test_arm_and_missing_cpuinfo() -> None:
    arm = hardware.parse_cpuinfo("processor : 0\nFeatures : fp asimd asimddp\n", {0})
    assert arm["instructions"] == ["asimd", "asimddp"] and arm["model"]
    assert hardware.parse_cpuinfo("", {0})["physical_cores"] is None


def test_equal_gpus_by_nvidia_smi_are_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 9.0, 570.1'\necho 'NVIDIA H200, 9.0, 570.1'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert hardware.gpus() == [{"name": "NVIDIA H200", "compute_capability": "9.0", "driver": "570.1"}]
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert hardware.gpus() == hardware._gpus_from_proc(Path("/proc/driver/nvidia"))


def test_equal_gpus_by_the_drivers_files_are_listed_once(tmp_path: Path) -> None:
    for address in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "gpus" / address).mkdir(parents=True)
        (tmp_path / "gpus" / address / "information").write_text("Model: \t NVIDIA T4\nIRQ: 9\n")
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  560.35.03  Fri\nGCC\n")
    assert hardware._gpus_from_proc(tmp_path) == [
        {"name": "NVIDIA T4", "compute_capability": None, "driver": "560.35.03"}
    ]
    assert hardware._gpus_from_proc(tmp_path / "none") == []


def test_the_description_is_stable_and_light() -> None:
    first, second = hardware.describe(), hardware.describe()
    assert first == second and json.loads(json.dumps(first)) == first
    assert first["cpu"]["logical_cores"] >= 1 and "numpy" in first["versions"]
    code = "import sys, deploy.hardware as h; h.describe(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("instructions", "saturates"),
    [
        (["avx2", "fma"], True),
        (["avx2", "avx512f"], True),
        (["avx2", "avx512f", "avx512_vnni"], False),
        (["avx2", "avx_vnni"], False),
        (["asimd", "asimddp"], False),
        ([], False),
    ],
)
def test_which_processors_cut_off_sums_of_bytes(instructions: list[str], saturates: bool) -> None:
    assert hardware.int8_saturates(instructions) == saturates
