"""What of a machine decides a latency, and nothing that changes from hour to hour; imports no engine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

FLAGS = (
    *("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve"),
)
"""Instruction sets that engines choose their kernels by, x86 then Arm."""

PACKAGES = (
    *("numpy", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino"),
    *("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-rtx"),
)
"""Whose versions are told, where installed."""

SMI = ("nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader")


def _read(path: Path) -> str:
    """The text of a file of /proc or /sys, empty where this system has none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def parse_cpuinfo(text: str, available: set[int]) -> dict[str, Any]:
    """Model, cores and instruction sets from the text of /proc/cpuinfo.

    Args:
        text: one block of `key : value` lines a logical core.
        available: the logical cores that this process may use.
    """
    blocks = []
    for block in text.strip().split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        blocks.append({key.strip(): value.strip() for key, _, value in pairs})
    usable = [block for block in blocks if block.get("processor", "").isdigit()]
    usable = [block for block in usable if int(block["processor"]) in available]
    first = usable[0] if usable else {}
    found = set((first.get("flags") or first.get("Features") or "").split())
    cores = {(block.get("physical id", "0"), block.get("core id", block["processor"])) for block in usable}
    return {
        "model": first.get("model name") or platform.processor() or platform.machine(),
        "physical_cores": len(cores) or None,
        "logical_cores": len(available),
        "instructions": [flag for flag in FLAGS if flag in found],
    }


def instructions() -> list[str]:
    """Those of `FLAGS` that this CPU has."""
    found: list[str] = _cpu()["instructions"]
    return found


def int8_sums_saturate() -> bool:
    """Whether products of unsigned and signed bytes are added up in 16 bits here: x86 without VNNI.

    Two products of 8 bits do not fit there and are cut off; with weights of 7 bits they fit.
    """
    return int8_saturates(instructions())


def int8_saturates(found: Iterable[str]) -> bool:
    """The same for a list of instruction sets."""
    has = set(found)
    return "avx2" in has and not has & {"avx512_vnni", "avx_vnni", "amx_int8"}


def _cpu() -> dict[str, Any]:
    available = (
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    )
    cpu = parse_cpuinfo(_read(Path("/proc/cpuinfo")), available)
    quota, _, period = _read(Path("/sys/fs/cgroup/cpu.max")).strip().partition(" ")
    cpu["quota_cores"] = round(int(quota) / int(period), 2) if quota.isdigit() and period.isdigit() else None
    return cpu


def _memory_gib() -> int | None:
    fields = dict(
        line.split(":", 1) for line in _read(Path("/proc/meminfo")).splitlines() if line.count(":") == 1
    )
    kib = fields.get("MemTotal", "").split()
    return round(int(kib[0]) / 2**20) if kib else None


def parse_smi(text: str) -> list[dict[str, str | None]]:
    """GPUs from nvidia-smi's comma-separated name, compute capability and driver, each kind once."""
    rows = dict.fromkeys(tuple(map(str.strip, line.split(","))) for line in text.splitlines() if line.strip())
    return [{"name": row[0], "compute_capability": row[1], "driver": row[2]} for row in rows if len(row) == 3]


def _gpus_from_proc(root: Path) -> list[dict[str, str | None]]:
    """GPUs by the driver's own files, for machines without nvidia-smi; no compute capability there."""
    words = _read(root / "version").split("\n", 1)[0].split()
    driver = next((word for word in words if word[:1].isdigit() and "." in word), None)
    names: dict[str, None] = {}
    for information in sorted((root / "gpus").glob("*/information")):
        lines = dict(line.split(":", 1) for line in _read(information).splitlines() if ":" in line)
        names[lines.get("Model", "unknown").strip()] = None
    return [{"name": name, "compute_capability": None, "driver": driver} for name in names]


def gpus() -> list[dict[str, str | None]]:
    """Name, compute capability and driver of the NVIDIA GPUs; empty without one. Never touches CUDA.

    Equal ones are listed once: one more of them changes no latency, and must re-measure nothing.
    """
    if shutil.which(SMI[0]):
        try:
            answer = subprocess.run(SMI, capture_output=True, text=True, timeout=30, check=True)
            return parse_smi(answer.stdout)
        except (OSError, subprocess.SubprocessError):
            pass  # a broken nvidia-smi says nothing about the driver: its own files decide
    return _gpus_from_proc(Path("/proc/driver/nvidia"))


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages among `PACKAGES`, without importing any."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def describe() -> dict[str, Any]:
    """This machine in JSON: CPU, memory, GPUs, versions, system; no name, no clock, no time."""
    return {
        "cpu": _cpu(),
        "memory_gib": _memory_gib(),
        "gpus": gpus(),
        "versions": versions(),
        "system": _system(),
        "architecture": platform.machine(),
    }
