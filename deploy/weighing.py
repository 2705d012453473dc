"""The work of benchmarked bundles, counted on their graphs and held against the machine's measured peak."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deploy.benchmark import Report
from deploy.bundle import CLASS_MAP, read_manifest
from deploy.graph import load
from deploy.macs import count
from deploy.peak import PRECISIONS, measure
from deploy.work import of as work_of

ON_CPU = ("onnxruntime", "openvino", "pytorch", "pytorch_compiled")
"""Backends whose work the processor's peak is the limit of."""


def weighed(report: Report, bundles: Mapping[str, Path]) -> Report:
    """The report with each model's work, held against the machine's peak, which is measured here.

    A bundle without an ONNX graph is left out. The peak is that of the bundles' precision, on their threads.
    """
    assert report.input_size is not None
    shape = (report.settings.batch_size, *report.input_size, 3)
    manifests = {model: read_manifest(bundle) for model, bundle in bundles.items()}
    graphs = {model: bundle / CLASS_MAP for model, bundle in bundles.items()}
    first = next(iter(manifests.values()))
    known = (
        first.backend in ON_CPU and first.precision in PRECISIONS and any(map(Path.is_file, graphs.values()))
    )
    peak = measure(first.threads, [first.precision]) if known else None
    work = {}
    for model, graph in graphs.items():
        if graph.is_file():
            macs = count(load(graph), {manifests[model].contract.input.name: shape})
            best = None if peak is None else peak.gflops[first.precision]
            work[model] = work_of(macs, report.models[model].own_ms, manifests[model].precision, best)
    return report.model_copy(update={"peak": peak, "work": work})
