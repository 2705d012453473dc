"""ONNX Runtime on the CPU."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from afdcd.errors import UserError
from deploy.bundle import CLASS_MAP, LOGITS, Contract
from deploy.config import Precision
from deploy.sessions import Reader

PROVIDER = "CPUExecutionProvider"


def open_graph(graph: bytes, name: str, *, threads: int) -> ort.InferenceSession:
    """An ONNX graph on the CPU provider with `threads` threads inside an operator and one operator at a time.

    Raises:
        UserError: onnxruntime cannot load the graph, or chose another provider than the one asked for.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(graph, options, providers=[PROVIDER])
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"onnxruntime {ort.__version__} cannot load {name}: {reason}") from error
    if session.get_providers() != [PROVIDER]:
        raise UserError(f"{name}: asked onnxruntime for {PROVIDER}, it took {session.get_providers()}")
    return session


class OnnxRuntimeSession:
    """Runs class_map.onnx; opens logits.onnx only when logits are asked for."""

    def __init__(
        self, contract: Contract, read: Reader, *, threads: int, precision: Precision = "fp32"
    ) -> None:
        self._contract = contract
        self._read = read
        self._threads = threads
        self._open: dict[str, ort.InferenceSession] = {}
        self._closed = False
        self._graph(CLASS_MAP)

    @property
    def contract(self) -> Contract:
        """What the engine takes and gives."""
        return self._contract

    def infer(self, images: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Class map (B, H, W) uint8 of images (B, H, W, 3) uint8."""
        return np.asarray(self._run(CLASS_MAP, self._contract.output.name, images), dtype=np.uint8)

    def logits(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Logits (B, K, H, W) at the input size."""
        return np.asarray(self._run(LOGITS, self._contract.logits, images), dtype=np.float32)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._open.clear()

    def _graph(self, name: str) -> ort.InferenceSession:
        if self._closed:
            raise RuntimeError("the session is closed")
        if name not in self._open:
            self._open[name] = open_graph(self._read(name), name, threads=self._threads)
        return self._open[name]

    def _run(self, name: str, output: str, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        admitted = self._contract.admit(images)
        (result,) = self._graph(name).run([output], {self._contract.input.name: admitted})
        return np.asarray(result)
