"""Which form of a graph is the faster here: the exported one, or that with Winograd's convolutions.

Both give the same but for rounding, and no rule tells for every processor and size which is faster. So both
are timed in turns, on the machine and with the threads that the engine is built for.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import numpy as np
import onnx

from deploy import graph, winograd
from deploy.bundle import CLASS_MAP, LOGITS, Contract, Range
from deploy.config import TargetConfig
from deploy.sessions import open_backend

GAIN = 1.05
"""Less than that is not worth another graph."""

ROUNDS, SECONDS = (3, 25), 2.0
"""Fewest and most rounds, and the seconds after which the fewest will do."""


def fastest(
    files: Mapping[str, bytes], contract: Contract, spec: TargetConfig
) -> tuple[dict[str, bytes], list[str]]:
    """The faster form of the exported twins for an engine on this machine; the exported one, if in doubt.

    Args:
        files: class_map.onnx and logits.onnx.
        contract: what they take and give.
        spec: the engine's backend, precision and threads.

    Returns:
        both twins, and the names of the convolutions in the other form; those of a bundle that is built again
        keep it.

    Raises:
        UserError: the backend cannot load a graph.
    """
    exported = {name: onnx.load_from_string(files[name]) for name in (CLASS_MAP, LOGITS)}
    found = {name: winograd.rewrite(model) for name, model in exported.items()}
    _, names = found[CLASS_MAP]
    if not names:
        return dict(files), winograd.written(exported[CLASS_MAP])
    other = {name: graph.to_bytes(model) for name, (model, _) in found.items()}
    return (other, names) if _gain(files, other, contract, spec) >= GAIN else (dict(files), [])


def _gain(
    files: Mapping[str, bytes], other: Mapping[str, bytes], contract: Contract, spec: TargetConfig
) -> float:
    """How many times faster the other form is: the median over rounds, after a call of each."""
    sides = (contract.input.batch, contract.input.height, contract.input.width)
    shape = [side.min if isinstance(side, Range) else side for side in sides]
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    ratios: list[float] = []
    least, most = ROUNDS
    with (
        open_backend(spec.backend, contract, files.__getitem__, threads=spec.threads) as own,
        open_backend(spec.backend, contract, other.__getitem__, threads=spec.threads) as rival,
    ):
        for session in (own, rival):
            session.infer(image)
        begun = time.perf_counter()
        while len(ratios) < most and (len(ratios) < least or time.perf_counter() - begun < SECONDS):
            times = []
            for session in (own, rival):
                start = time.perf_counter()
                session.infer(image)
                times.append(time.perf_counter() - start)
            ratios.append(times[0] / times[1])
    return statistics.median(ratios)
