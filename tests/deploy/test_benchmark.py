from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from afdcd.errors import UserError
from deploy import benchmark, benchmark_worker, trtexec
from deploy.anyones import Stream
from deploy.benchmark_worker import Memory, Subject
from deploy.config import BenchmarkConfig

SETTINGS = BenchmarkConfig(batch_size=1, warmup=3, iterations=20, rounds=4, max_cv=0.5)


def graph(path: Path, multiplications: int, shape: list[int | str] | None = None) -> Path:
    """An ONNX file of so many 256 x 256 matrix products."""
    shape = shape or [1, 256]
    names = ["x", *(f"y{index}" for index in range(multiplications))]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [256, 256], np.eye(256, dtype=np.float32).ravel())
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in zip(names, names[1:], strict=False)]
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "products",
        [value("x", TensorProto.FLOAT, shape)],
        [value(names[-1], TensorProto.FLOAT, shape)],
        [weight],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_the_bigger_model_is_slower(tmp_path: Path) -> None:
    subjects = [
        Subject("big", graph(tmp_path / "big.onnx", 40, [64, 256]), 1),
        Subject("small", graph(tmp_path / "small.onnx", 2, [64, 256]), 1),
    ]
    ticks: list[int] = []
    report = benchmark.measure(
        subjects, [], SETTINGS, inputs="random", baseline="big", tick=lambda: ticks.append(1)
    )
    big, small = report.models["big"], report.models["small"]
    assert small.speedup and small.speedup > 2 and big.speedup == 1.0
    assert big.latency_ms.samples == 80 and len(big.rounds_p50_ms) == 4 and len(ticks) == 8
    assert big.latency_ms.min <= big.latency_ms.p50 and big.cpu_ms.p50 > 0
    assert big.compute_ms and small.compute_ms and big.compute_ms.samples == 20
    assert big.compute_ms.p50 > 2 * small.compute_ms.p50 > 0
    assert 0.2 * big.latency_ms.min < big.compute_ms.min < 2 * big.latency_ms.p50
    assert big.throughput == pytest.approx(1000 / big.latency_ms.mean, rel=1e-3)
    assert big.memory_mib is None or big.memory_mib > 1
    assert report.hardware["cpu"]["logical_cores"] and report.input_size is None
    assert benchmark.Report.model_validate_json(report.model_dump_json()) == report


class Untimed:
    """Calls of an engine that cannot be timed alone."""

    def __init__(self, *answers: float | None) -> None:
        self.answers = list(answers)

    def __call__(self) -> float | None:
        return self.answers.pop(0)


def test_an_engine_that_cannot_be_timed_alone_has_no_compute_time() -> None:
    nothing = Untimed(None)
    blind = benchmark_worker.time_turn(Stream(lambda: None, nothing), 3)
    assert len(blind.calls) == 3 and blind.runs == [] and not nothing.answers
    assert benchmark.summary(calls(10, 10), None, SETTINGS).compute_ms is None
    first_is_not_counted = Stream(lambda: None, Untimed(99.0, 1.0, 3.0, 2.0))
    times = benchmark_worker.time_turn(first_is_not_counted, 9)
    assert len(times.calls) == 9 and times.runs == [1.0, 3.0, 2.0]
    found = benchmark.summary(calls(10, 10), None, SETTINGS, runs=times.runs).compute_ms
    assert found is not None and (found.samples, found.min, found.p50, found.max) == (3, 1.0, 2.0, 3.0)
    assert found.p99 is None


def test_trtexecs_names_say_where_and_by_which_clock_compute_was_timed() -> None:
    result = benchmark.summary(calls(10, 10), None, SETTINGS, runs=[4.0, 6.0])
    cpu, cuda, trt = (
        trtexec.fields(result, backend=name) for name in ("openvino", "onnxruntime_cuda", "tensorrt")
    )
    expected = {
        "min": 4.0,
        "max": 6.0,
        "mean": 5.0,
        "median": 5.0,
        **{f"percentile({share}%)": None for share in (90, 95, 99)},
    }
    assert cpu["CPU Compute Time"] == cuda["GPU Compute Time"] == trt["GPU Compute Time"] == expected
    assert cpu["GPU Compute Time"] is cuda["CPU Compute Time"] is trt["CPU Compute Time"] is None
    assert [one["Compute Clock"] for one in (cpu, cuda, trt)] == ["host", "host", "GPU events"]
    assert "runs on the CPU" in str(cpu["null because"]) and "nothing between" in str(trt["null because"])
    blind = trtexec.fields(benchmark.summary(calls(10, 10), None, SETTINGS), backend="tensorrt")
    assert blind["GPU Compute Time"] is blind["Compute Clock"] is None
    assert "cannot be timed alone" in str(blind["null because"])


def test_what_cannot_be_measured_is_one_sentence(tmp_path: Path) -> None:
    free = Subject("free", graph(tmp_path / "free.onnx", 1, ["n", 256]), 1)
    with pytest.raises(UserError, match="a benchmark needs fixed sizes"):
        benchmark.measure([free], [], SETTINGS, inputs="random")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="broken.onnx is damaged or no ONNX file"):
        benchmark.measure([Subject("broken", tmp_path / "broken.onnx", 1)], [], SETTINGS, inputs="random")


@pytest.mark.parametrize("end", [EOFError, BrokenPipeError, KeyboardInterrupt])
def test_a_worker_leaves_quietly_with_its_benchmark(
    monkeypatch: pytest.MonkeyPatch, end: type[BaseException]
) -> None:
    def leave(_: object) -> NoReturn:
        raise end

    ours, theirs = socket.socketpair()
    monkeypatch.setattr(sys, "argv", ["worker", str(theirs.detach())])
    monkeypatch.setattr(benchmark_worker, "work", leave)
    with ours:
        benchmark_worker.main()


def test_a_worker_that_dies_is_named(tmp_path: Path) -> None:
    worker = benchmark.Worker(Subject("small", graph(tmp_path / "small.onnx", 1), 1))
    try:
        worker.open([])
        os.kill(worker.process.pid, 9)
        with pytest.raises(UserError, match="small.* ended with code -9"):
            worker.time(1)
    finally:
        worker.close()


def calls(*medians_ms: float) -> list[list[tuple[int, int]]]:
    return [[(int(ms * 1e6), int(ms * 5e5))] * 20 for ms in medians_ms]


def test_an_unsteady_run_is_marked() -> None:
    steady = benchmark.summary(calls(10, 10.1, 10), None, SETTINGS.model_copy(update={"max_cv": 0.1}))
    assert steady.steadiness.stable and steady.speedup is None
    wild = benchmark.summary(
        calls(10, 20, 10), calls(20, 40, 20), SETTINGS.model_copy(update={"max_cv": 0.1})
    )
    assert not wild.steadiness.stable and wild.speedup == 2.0 and wild.rounds_speedup == [2.0, 2.0, 2.0]
    assert wild.rounds_cpu_p50_ms == [5.0, 10.0, 5.0]


def test_throughput_counts_the_batch_and_memory_the_difference() -> None:
    settings = SETTINGS.model_copy(update={"batch_size": 4})
    result = benchmark.summary(calls(10, 10), None, settings, memory=Memory(50.0, 75.5))
    assert result.throughput == 400.0 and result.memory_mib == 25.5
    assert benchmark.summary(calls(10, 10), None, settings, memory=Memory(None, 7.0)).memory_mib is None
