"""A result under the names of trtexec's report, for those who compare the two."""

from __future__ import annotations

from deploy.benchmark import Result
from deploy.latency import Latency
from deploy.sessions.capability import GPU_BACKENDS

CPU = "the engine runs on the CPU: there is no queue of a device, no copy to or from one, no compute of a GPU"
"""Why a field of a GPU is null on a CPU."""

GPU = "a call from host memory to host memory and the engine's own run are timed, nothing between them"
"""Why a field is null on a GPU."""

ALONE = "this engine cannot be timed alone"
"""Why no compute time is told."""

EVENTS = ("tensorrt", "tensorrt_rtx")
"""Backends whose compute time is between two events of the GPU."""


def fields(result: Result, *, backend: str) -> dict[str, object]:
    """Milliseconds by trtexec's names; null where there is none, with the reason.

    "CPU Compute Time" is no name of trtexec's: an engine on a CPU has no compute time of a GPU. "Compute
    Clock" says how it was taken: by events of the GPU, as trtexec does, or by the host around a run that it
    waits for.
    """
    latency, gpu = result.latency_ms, backend in GPU_BACKENDS
    compute = None if result.compute_ms is None else _times(result.compute_ms)
    return {
        "Throughput": round(1000 / latency.mean, 3),
        "Latency": _times(latency),
        "Enqueue Time": None,
        "H2D Latency": None,
        "GPU Compute Time": compute if gpu else None,
        "CPU Compute Time": None if gpu else compute,
        "Compute Clock": None if compute is None else ("GPU events" if backend in EVENTS else "host"),
        "D2H Latency": None,
        "Total Host Walltime": round(latency.mean * latency.samples / 1000, 6),
        "Total GPU Compute Time": None,
        "null because": (GPU if gpu else CPU) + ("" if compute else f"; {ALONE}"),
    }


def _times(latency: Latency) -> dict[str, float | None]:
    return {
        "min": latency.min,
        "max": latency.max,
        "mean": latency.mean,
        "median": latency.p50,
        "percentile(90%)": latency.p90,
        "percentile(95%)": latency.p95,
        "percentile(99%)": latency.p99,
    }
