"""A result under the names of trtexec's report, for those who compare the two."""

from __future__ import annotations

from deploy.benchmark import Result

CPU = "the engine runs on the CPU: there is no queue of a device and no copy to or from one"
"""Why a field of a GPU is null on a CPU."""

GPU = "copies and computation are timed as one call: a call is from host memory to host memory"
"""Why it is null on a GPU."""


def fields(result: Result, *, gpu: bool) -> dict[str, object]:
    """Milliseconds by trtexec's names; null where there is none, with the reason.

    On a CPU the whole call is computation on host memory, so that compute time and latency are one.
    """
    latency = result.latency_ms
    times: dict[str, object] = {
        "min": latency.min,
        "max": latency.max,
        "mean": latency.mean,
        "median": latency.p50,
        "percentile(90%)": latency.p90,
        "percentile(95%)": latency.p95,
        "percentile(99%)": latency.p99,
    }
    total = round(latency.mean * latency.samples / 1000, 6)
    return {
        "Throughput": round(1000 / latency.mean, 3),
        "Latency": times,
        "Enqueue Time": None,
        "H2D Latency": None,
        "GPU Compute Time": None,
        "D2H Latency": None,
        "Total Host Walltime": total,
        "Total GPU Compute Time": None,
        "null because": GPU if gpu else CPU,
    }
