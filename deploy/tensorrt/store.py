"""Plans of a bundle: built from its graphs, found again, and refused where they do not belong."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from afdcd.errors import UserError
from afdcd.files import atomic_file
from deploy.bundle import CLASS_MAP, LOGITS, Contract, plan_name, write_model
from deploy.config import Precision
from deploy.tensorrt.bindings import Bindings, load_for_gpu
from deploy.tensorrt.key import PLANS, TIMING, EngineKey, PlanKeys, host_key, read_keys
from deploy.tensorrt.memory import Gpu, open_memory
from deploy.tensorrt.plan import build_plan
from deploy.tensorrt.profiles import span

Reader = Callable[[str], bytes]


def write_plans(
    folder: Path, package: str, contract: Contract, precision: Precision, *, timing: Path
) -> list[str]:
    """Build the plans of both graphs of a bundle's folder on this GPU, beside them, with their keys.

    Args:
        folder: holds class_map.onnx and logits.onnx.
        package: tensorrt or tensorrt_rtx.
        contract: gives the shapes.
        precision: what the graphs are typed in.
        timing: folder of timing caches, one a version and GPU; read, and written again.

    Returns:
        The names of the files written.

    Raises:
        UserError: no driver, no library, or TensorRT refuses a graph.
    """
    bindings = load_for_gpu(package)
    memory = open_memory()
    shapes = span(contract)
    keys: dict[str, EngineKey] = {}
    written = [PLANS]
    with memory.current():
        gpu = memory.gpu()
        cache = timing / _timing_name(bindings, gpu)
        known = cache.read_bytes() if cache.is_file() else None
        for name in (CLASS_MAP, LOGITS):
            content = (folder / name).read_bytes()
            key = host_key(content, bindings, gpu, shapes, precision)
            built = build_plan(
                bindings,
                content,
                name,
                spans={contract.input.name: shapes},
                precision=precision,
                timing=known,
            )
            known = built.timing
            (folder / plan_name(name)).write_bytes(built.plan)
            keys[plan_name(name)] = key
    if known is not None:
        (folder / TIMING).write_bytes(known)
        with atomic_file(cache) as path:
            path.write_bytes(known)
        written.append(TIMING)
    write_model(folder / PLANS, PlanKeys(plans=keys))
    return sorted([*written, *keys])


def _timing_name(bindings: Bindings, gpu: Gpu) -> str:
    """A file name of its own for each library, version and GPU."""
    identity = f"{bindings.package} {bindings.version} {gpu.name} {gpu.compute_capability}"
    return f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.cache"


def read_plan(
    read: Reader, graph: str, *, bindings: Bindings, gpu: Gpu, contract: Contract, precision: Precision
) -> bytes:
    """The plan of a graph, if it belongs to this machine.

    Raises:
        UserError: the bundle has no plan, or it was built elsewhere or from another graph: with every reason.
    """
    try:
        keys = read_keys(read(PLANS)).plans
        key = keys[plan_name(graph)]
    except KeyError as error:
        raise UserError(
            f"the bundle of {contract.model} holds no plan of {graph} for {bindings}; "
            "build it on this device from its graph"
        ) from error
    here = host_key(read(graph), bindings, gpu, span(contract), precision)
    reasons = key.differences(here)
    if reasons:
        raise UserError(
            f"{plan_name(graph)} of {contract.model} is not for this machine: {'; '.join(reasons)}; "
            "rebuild it from its graph on this device (docs/tensorrt.md says how), and evaluate it again"
        )
    return read(plan_name(graph))
