"""Each model's work is held against the machine's peak in the precision that the engine computes in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from foreign_onnx import by_hand
from onnx import TensorProto

from deploy import benchmark, peak, weighing, work
from deploy.benchmark_worker import Subject
from deploy.bundle import read_manifest
from deploy.cli import benchmark as verb
from deploy.config import BenchmarkConfig
from deploy.macs import Macs
from deploy.weighing import weighed

SETTINGS = BenchmarkConfig(batch_size=2, warmup=1, iterations=4, rounds=2, max_cv=0.5)


def test_pace_and_share_by_hand() -> None:
    macs = Macs(gmacs=3.0, gflops=6.0, effective_gflops=5.0, uncounted=[], nodes=[])
    found = work.of(macs, 250.0, "int8", 80.0)
    assert (found.gmacs, found.gflops_per_second, found.share) == (3.0, 20.0, 0.25)
    assert work.of(macs, 250.0, "fp16", None).share is None


@pytest.mark.parametrize(("target", "precision"), [("ort_cpu_fp32", "fp32"), ("ort_cpu_int8", "int8")])
def test_bundles_are_weighed_in_their_own_precision(
    bundle: Callable[[str], Path], target: str, precision: str
) -> None:
    path = bundle(target)
    contract = read_manifest(path).contract
    batches = [np.zeros((2, *contract.geometry.size, 3), np.uint8)]
    report = benchmark.measure([Subject("little", path, 1)], batches, SETTINGS, inputs="zeros")
    found = weighed(report, {"little": path})
    assert found.peak is not None and list(found.peak.gflops) == [precision]
    did, best = found.work["little"], found.peak.gflops[precision]
    assert best is not None and did.precision == precision
    assert did.gmacs > 0 and did.effective_gflops <= 2 * did.gmacs
    pace = did.effective_gflops / report.models["little"].own_ms * 1e3
    assert did.gflops_per_second == pytest.approx(pace, rel=1e-3)
    assert did.share == pytest.approx(pace / best, rel=1e-2, abs=1e-4) and 0 < did.share < 2


def test_another_device_than_the_processor_has_no_share(
    bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundle("ort_cpu_fp32")
    batches = [np.zeros((2, *read_manifest(path).contract.geometry.size, 3), np.uint8)]
    report = benchmark.measure([Subject("little", path, 1)], batches, SETTINGS, inputs="zeros")
    monkeypatch.setattr(weighing, "ON_CPU", ())
    found = weighed(report, {"little": path})
    assert found.peak is None and found.work["little"].share is None and found.work["little"].gmacs > 0


def test_a_files_precision_and_threads_are_those_of_its_peak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single, half = by_hand(tmp_path / "a.onnx"), by_hand(tmp_path / "b.onnx", kind=TensorProto.FLOAT16)
    known = peak.Peak(threads=1, gflops=dict.fromkeys(peak.PRECISIONS, 1e3), by={})
    monkeypatch.setattr(peak, "measure", lambda threads: known)
    subjects = [Subject("a", single, 1), Subject("two threads", single, 2), Subject("half", half, 1)]
    report = benchmark.measure(subjects, [], SETTINGS, inputs="zeros")
    macs = Macs(gmacs=3.0, gflops=6.0, effective_gflops=5.0, uncounted=[], nodes=[])
    found = verb._weighed(report, subjects, {one.name: macs for one in subjects}, with_peak=True).work
    assert [found[one.name].precision for one in subjects] == ["fp32", "fp32", "fp16"]
    assert [found[one.name].share is None for one in subjects] == [False, True, True]
