"""Whether TensorRT takes a graph, without a GPU: TensorRT-RTX parses and builds it, and runs nothing."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping

from deploy.bundle import Contract
from deploy.config import Config, Precision
from deploy.tensorrt.bindings import load, load_for_gpu
from deploy.tensorrt.plan import build_plan
from deploy.tensorrt.profiles import Span, span

VERIFIED = "built, not run on hardware by us"
"""What README, doctor and docs say of TensorRT until results/ holds a run on a GPU."""


class DryBuild(Config):
    """That a graph became a plan, which was thrown away: nothing is known of its numbers or its speed.

    Attributes:
        package: tensorrt or tensorrt_rtx.
        version: of it.
        onnx_sha256: of the graph.
        layers: of the parsed network.
        plan_bytes: size of the plan.
        outputs: name -> (type, shape).
        warnings: remarks of the library that change no meaning.
        seconds: parsing and building.
    """

    package: str
    version: str
    onnx_sha256: str
    layers: int
    plan_bytes: int
    outputs: dict[str, tuple[str, tuple[int, ...]]]
    warnings: list[str]
    seconds: float


def dry_build(
    content: bytes,
    name: str,
    *,
    contract: Contract | None = None,
    spans: Mapping[str, Span] | None = None,
    precision: Precision = "fp32",
    package: str = "tensorrt_rtx",
) -> DryBuild:
    """Let TensorRT parse and build a graph, and keep nothing of it.

    Args:
        content: of the ONNX file.
        name: its name, for messages.
        contract: gives the shapes of its one input.
        spans: shapes by input, for a graph without a contract; neither is needed where all shapes are fixed.
        precision: what the graph is typed in.
        package: tensorrt_rtx needs no GPU; tensorrt needs one.

    Raises:
        UserError: the library is not there, or refuses the graph: with the node, its operator and the reason.
    """
    bindings = load(package) if package == "tensorrt_rtx" else load_for_gpu(package)
    shapes = dict(spans or {})
    if contract is not None:
        shapes.setdefault(contract.input.name, span(contract))
    start = time.perf_counter()
    built = build_plan(bindings, content, name, spans=shapes, precision=precision, timing=None)
    return DryBuild(
        package=package,
        version=bindings.version,
        onnx_sha256=hashlib.sha256(content).hexdigest(),
        layers=built.layers,
        plan_bytes=len(built.plan),
        outputs=built.outputs,
        warnings=built.warnings,
        seconds=round(time.perf_counter() - start, 3),
    )
