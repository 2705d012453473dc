"""What a server counts: Prometheus' metrics, and the statistics of Triton's form."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()
LABELS = ("model", "version")
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
REQUESTS = Counter("v2_requests", "requests by outcome", (*LABELS, "outcome"), registry=REGISTRY)
QUEUE = Histogram("v2_queue_seconds", "waiting for a session", LABELS, buckets=BUCKETS, registry=REGISTRY)
COMPUTE = Histogram("v2_compute_seconds", "in the engine", LABELS, buckets=BUCKETS, registry=REGISTRY)
TOTAL = Histogram(
    "v2_request_seconds", "from the whole request to its answer", LABELS, buckets=BUCKETS, registry=REGISTRY
)
WAITING = Gauge("v2_waiting", "requests in the queue", LABELS, registry=REGISTRY)
SEEN = Counter("v2_watched_pixels", "pixels whose confidence was looked at", LABELS, registry=REGISTRY)
UNSURE = Counter("v2_low_confidence_pixels", "those of low confidence", LABELS, registry=REGISTRY)


class Tally:
    """The counts of one version; only the event loop writes them, but for `confidence`."""

    def __init__(self, model: str, version: str) -> None:
        self._labels = (model, version)
        self._queue = QUEUE.labels(model, version)
        self._compute = COMPUTE.labels(model, version)
        self._total = TOTAL.labels(model, version)
        self._succeeded = REQUESTS.labels(model, version, "ok")
        self._images = self._done = self._failed = self._failed_ns = self._last_ms = 0
        self._calls = 0.0
        self._ns = {"success": 0, "queue": 0, "compute_infer": 0}

    def success(self, images: int, queued: float, computed: float, total: float, batch: int) -> None:
        """One request was answered; times in seconds, `batch` images went through the engine with it."""
        self._succeeded.inc()
        self._queue.observe(queued)
        self._compute.observe(computed)
        self._total.observe(total)
        self._images += images
        self._done += 1
        self._calls += images / batch
        self._last_ms = int(time.time() * 1000)
        self._ns["success"] += int(total * 1e9)
        self._ns["queue"] += int(queued * 1e9)
        self._ns["compute_infer"] += int(computed * 1e9)

    def confidence(self, pixels: int, low: int) -> None:
        """So many pixels were looked at, and so many of them are of low confidence; from any thread."""
        SEEN.labels(*self._labels).inc(pixels)
        UNSURE.labels(*self._labels).inc(low)

    def failure(self, outcome: str, total: float) -> None:
        """One request was not answered, and why."""
        REQUESTS.labels(*self._labels, outcome).inc()
        self._failed += 1
        self._failed_ns += int(total * 1e9)

    def watch(self, waiting: Callable[[], int]) -> None:
        """Ask for the length of the queue whenever the metrics are read."""
        WAITING.labels(*self._labels).set_function(waiting)

    def forget(self) -> None:
        """The version is closed: its queue is no more."""
        WAITING.remove(*self._labels)

    def statistics(self) -> dict[str, Any]:
        """As Triton gives them; times are sums in nanoseconds."""
        nothing = {"count": 0, "ns": 0}
        model, version = self._labels
        return {
            "name": model,
            "version": version,
            "last_inference": self._last_ms,
            "inference_count": self._images,
            "execution_count": round(self._calls),
            "inference_stats": {
                **{name: {"count": self._done, "ns": ns} for name, ns in self._ns.items()},
                "fail": {"count": self._failed, "ns": self._failed_ns},
                "compute_input": nothing,
                "compute_output": nothing,
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "batch_stats": [],
        }
