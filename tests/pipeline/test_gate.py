from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from afdcd.files import read_json, write_json
from pipeline import paths

GATE = {
    "name": "max_drop",
    "model": "s_kd_0",
    "target": "cpu_int8",
    "engine": "onnxruntime int8",
    "value": 1.53,
    "limit": 1.0,
    "status": "pass",
    "detail": "loses 1.53 points of mIoU against PyTorch; at most 1.00 points is required, missed by 0.53",
}


def enforce(root: Path, *verdicts: dict[str, Any], notes: tuple[dict[str, str], ...] = ()) -> Any:
    write_json(root / paths.GATES, {"verdicts": list(verdicts), "notes": list(notes)})
    return subprocess.run(
        [sys.executable, "-m", "pipeline.gate"], cwd=root, capture_output=True, text=True, check=False
    )


def test_met_gates_leave_a_verdict(tmp_path: Path) -> None:
    note = {"model": "s_kd_0", "target": "cpu_int8", "detail": "not worth shipping"}
    done = enforce(tmp_path, GATE, GATE | {"status": "not judged", "detail": "too noisy"}, notes=(note,))
    assert done.returncode == 0, done.stderr
    assert "1 pass, 1 not judged" in done.stdout
    assert "not judged: max_drop of s_kd_0 on cpu_int8 (onnxruntime int8): too noisy" in done.stdout
    assert "note: s_kd_0 on cpu_int8: not worth shipping" in done.stdout
    verdict = read_json(tmp_path / paths.VERDICT)
    assert verdict["passed"] is True and verdict["gates"]["verdicts"][0] == GATE


def test_failed_gates_are_all_named_and_exit_1(tmp_path: Path) -> None:
    size = GATE | {"name": "max_size_mb", "status": "fail", "detail": "7 MB; missed by 2.00 MB"}
    done = enforce(tmp_path, GATE, GATE | {"status": "fail"}, size)
    assert done.returncode == 1 and not (tmp_path / paths.VERDICT).exists()
    assert "2 of 3 gates failed" in done.stderr and "Traceback" not in done.stderr
    assert f"max_drop of s_kd_0 on cpu_int8 (onnxruntime int8): {GATE['detail']}" in done.stderr
    assert "missed by 2.00 MB" in done.stderr


def test_a_failed_gate_hides_neither_notes_nor_what_was_not_judged(tmp_path: Path) -> None:
    note = {"model": "s_kd_0", "target": "cpu_int8", "detail": "not worth shipping: 1.02x"}
    unsure = GATE | {"name": "max_p50_ms", "status": "not judged", "detail": "too noisy"}
    done = enforce(tmp_path, GATE | {"status": "fail"}, unsure, notes=(note,))
    assert done.returncode == 1 and "1 of 2 gates failed" in done.stderr
    assert "1 fail, 1 not judged" in done.stdout
    assert "note: s_kd_0 on cpu_int8: not worth shipping: 1.02x" in done.stdout
    assert "not judged: max_p50_ms of s_kd_0 on cpu_int8 (onnxruntime int8): too noisy" in done.stdout


def test_without_gates_json_there_is_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.gate"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "reports/gates.json is missing" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("status", ["failed", "", None])
def test_an_unknown_status_is_refused(tmp_path: Path, status: str | None) -> None:
    done = enforce(tmp_path, GATE | {"status": status})
    assert done.returncode == 1 and "another version" in done.stderr
