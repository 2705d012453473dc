"""From a typed graph to an engine bundle that has run once on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from afdcd.errors import UserError
from afdcd.files import atomic_folder, read_json
from deploy.bundle import (
    CLASS_MAP,
    LOGITS,
    MANIFEST,
    PARITY,
    PROGRAM,
    QUANTISATION,
    Contract,
    Manifest,
    Range,
    describe,
    ir_names,
    read_contract,
    verify,
    write_model,
)
from deploy.config import TargetConfig
from deploy.hardware import versions
from deploy.sessions import open_session
from deploy.sessions.capability import check_target

ENGINE_FILES = (CLASS_MAP, LOGITS, PROGRAM, *ir_names(CLASS_MAP), *ir_names(LOGITS))
"""What the stage quantize may have written for a target."""

PLANNED = ("tensorrt", "tensorrt_rtx")
"""Backends whose graphs become plans of one machine; the graphs stay in the bundle, to rebuild them from."""

WINOGRAD = frozenset({("onnxruntime", "fp32"), ("openvino", "fp32")})
"""Backends and precisions that have no such convolutions of their own, and lose no accuracy by them."""

TIMINGS = "timing"
"""Folder beside the bundles of a target: TensorRT's measured kernel times, one file a version and GPU."""


def build(
    typed: Path, bundle: Path, *, target: str, spec: TargetConfig, hardware: dict[str, Any]
) -> Manifest:
    """Make the bundle of a typed graph and run it once on a black image; `bundle` appears only if that works.

    Args:
        typed: folder of graphs, contract.json, parity.json and quantize.json.
        bundle: where the engine goes.
        target: the target's name.
        spec: its backend, precision and threads.
        hardware: of this machine, for the manifest.

    Raises:
        UserError: this machine cannot run the target, a file is missing, `deploy.check` finds an error in a
            graph, or the engine does not load or run.
    """
    check_target(target, spec)
    contract = read_contract(typed)
    names = [name for name in ENGINE_FILES if (typed / name).is_file()]
    if not names:
        raise UserError(f"{typed} holds no graph; run the stage quantize for it again")
    with atomic_folder(bundle) as folder:
        for name in names:
            (folder / name).write_bytes((typed / name).read_bytes())
        _check(folder, names, spec)
        names += _plans(folder, spec, contract, bundle.parent / TIMINGS)
        winograd = _fastest(folder, names, spec, contract)
        manifest = Manifest(
            format=1,
            model=contract.model,
            target=target,
            backend=spec.backend,
            precision=spec.precision,
            threads=spec.threads,
            contract=contract,
            files=describe(folder, names),
            quantisation=read_json(typed / QUANTISATION),
            parity=read_json(typed / PARITY),
            hardware=hardware,
            versions=versions(),
            winograd=winograd,
            measured=None,
        )
        write_model(folder / MANIFEST, manifest)
        _try(folder, manifest)
    return manifest


def rebuild(bundle: Path, fresh: Path, *, hardware: dict[str, Any]) -> Manifest:
    """Make a bundle for this machine from the graphs of one that was built elsewhere.

    What was measured there does not count here: `measured` is None until it is evaluated again. Convolutions
    in Winograd's form stay in it, for the exported graph is not in the bundle.

    Args:
        bundle: the one from elsewhere; it stays as it is.
        fresh: where the new one goes; it appears only if it runs.
        hardware: of this machine, for the manifest.

    Raises:
        UserError: a file is altered, this machine cannot run the target, or the engine cannot be built.
    """
    old = verify(bundle)
    spec = TargetConfig(backend=old.backend, precision=old.precision, where="here", threads=old.threads)
    check_target(old.target, spec)
    names = [name for name in ENGINE_FILES if name in old.files]
    with atomic_folder(fresh) as folder:
        for name in names:
            (folder / name).write_bytes((bundle / name).read_bytes())
        _check(folder, names, spec)
        names += _plans(folder, spec, old.contract, fresh.parent / TIMINGS)
        update = {"files": describe(folder, names), "hardware": hardware, "versions": versions()}
        manifest = old.model_copy(update={**update, "measured": None})
        write_model(folder / MANIFEST, manifest)
        _try(folder, manifest)
    return manifest


def _check(folder: Path, names: Iterable[str], spec: TargetConfig) -> None:
    """Refuse graphs that the engine would refuse or misread, with the node and the remedy."""
    graphs = [name for name in names if name.endswith(".onnx")]
    if graphs:
        from deploy.check import require_sound  # takes onnx along, which other targets do without

        for name in graphs:
            require_sound((folder / name).read_bytes(), name, spec.backend)


def _plans(folder: Path, spec: TargetConfig, contract: Contract, timing: Path) -> list[str]:
    """Build the plans that a backend runs, beside its graphs; the names of what was written."""
    if spec.backend not in PLANNED:
        return []
    from deploy.tensorrt.store import write_plans  # takes onnx along, which other targets do without

    return write_plans(folder, spec.backend, contract, spec.precision, timing=timing)


def _fastest(folder: Path, names: Iterable[str], spec: TargetConfig, contract: Contract) -> list[str]:
    """Give the graphs the form that is the fastest here; the convolutions that took Winograd's."""
    # Where a twin is missing, opening the engine says so.
    if (spec.backend, spec.precision) not in WINOGRAD or not {CLASS_MAP, LOGITS} <= set(names):
        return []
    from deploy.form import fastest  # takes onnx along, which other targets do without

    exported = {name: (folder / name).read_bytes() for name in (CLASS_MAP, LOGITS)}
    files, winograd = fastest(exported, contract, spec)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return winograd


def _try(folder: Path, manifest: Manifest) -> None:
    """Both outputs for one black image have the promised shapes, and the class map names known classes."""
    contract = manifest.contract
    wanted = (contract.input.height, contract.input.width)
    height, width = (side.min if isinstance(side, Range) else side for side in wanted)
    image = np.zeros((1, height, width, 3), dtype=np.uint8)
    with open_session(folder, threads=manifest.threads) as session:
        class_map, logits = session.infer(image), session.logits(image)
    expected = (1, len(contract.classes), height, width)
    if class_map.shape != image.shape[:3] or logits.shape != expected or class_map.max() >= expected[1]:
        raise UserError(
            f"the engine of {manifest.model} for {manifest.target} gives a class map {class_map.shape} and "
            f"logits {logits.shape}, its contract promises {image.shape[:3]} and {expected}; export it again"
        )
