"""OpenVINO on the CPU: float32, bfloat16 where the processor computes it, and INT8 from its own quantiser.

float32 and bfloat16 run the exported ONNX; how it is computed is a hint at opening, and what the engine made
of the hint is read back. INT8 comes as OpenVINO's own format, a graph (.xml) beside its weights (.bin), and
computes what was left in float in float32. A graph is compiled for each shape of images that comes: with a
free batch a narrow network took a quarter more time.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import properties
from openvino.properties import hint

from afdcd.errors import UserError
from deploy.bundle import CLASS_MAP, LOGITS, Contract, ir_names
from deploy.config import Precision
from deploy.openvino_core import core
from deploy.sessions import Reader

DEVICE = "CPU"
SHAPES = 4
"""Compiled forms of a graph that are kept; the one unused for longest goes first."""

_HINTS: dict[Precision, ov.Type] = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16, "int8": ov.Type.f32}


def compile_graph(runtime: ov.Core, model: ov.Model, name: str, *, threads: int, wanted: ov.Type) -> Any:
    """The model compiled for one stream of calls on `threads` threads, nothing kept on disk.

    Threads are not pinned: two processes would choose the same core.

    Raises:
        UserError: OpenVINO cannot compile it, or computes in another type than `wanted`.
    """
    settings = {
        hint.inference_precision(): wanted,
        hint.performance_mode(): hint.PerformanceMode.LATENCY,
        hint.enable_cpu_pinning(): False,
        properties.inference_num_threads(): threads,
        properties.num_streams(): "1",
        properties.cache_dir(): "",
    }
    try:
        compiled = runtime.compile_model(model, DEVICE, settings)
    except Exception as error:
        raise UserError(f"openvino {ov.__version__} cannot compile {name}: {_reason(error)}") from error
    got = compiled.get_property(hint.inference_precision())
    if got != wanted:
        raise UserError(
            f"{name}: asked openvino for {wanted.get_type_name()}, it computes in {got.get_type_name()} on "
            "this processor; take a precision that it has (python -m deploy doctor)"
        )
    return compiled


def run_ms(request: Any) -> float:
    """Milliseconds of an inference on the tensors that a request holds; nothing is copied out."""
    start = time.perf_counter_ns()
    request.infer(share_outputs=True)
    return (time.perf_counter_ns() - start) / 1e6


class OpenVinoSession:
    """Runs the class map's graph; reads that of the logits only when they are asked for."""

    def __init__(
        self, contract: Contract, read: Reader, *, threads: int, precision: Precision = "fp32"
    ) -> None:
        if precision not in _HINTS:
            raise UserError(
                f"openvino on a CPU runs {', '.join(_HINTS)}, not {precision}; "
                f"take one of these for {contract.model}"
            )
        self._contract = contract
        self._read = read
        self._threads = threads
        self._precision = precision
        self._core = core()
        self._models: dict[str, ov.Model] = {}
        self._compiled: dict[tuple[str, tuple[int, ...]], Any] = {}
        self._closed = False
        self._model(CLASS_MAP)

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

    def compute_ms(self, images: npt.NDArray[Any]) -> float:
        """Milliseconds of one inference of the class map's graph on images that lie in its tensor."""
        admitted = self._contract.admit(images)
        new = (CLASS_MAP, admitted.shape) not in self._compiled
        request = self._request(CLASS_MAP, admitted.shape)
        request.set_tensor(self._contract.input.name, ov.Tensor(admitted))
        if new:
            run_ms(request)
        return run_ms(request)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._compiled.clear()
        self._models.clear()

    def _model(self, name: str) -> ov.Model:
        if name not in self._models:
            files = ir_names(name) if self._precision == "int8" else (name,)
            contents = [self._read(file) for file in files]
            try:
                self._models[name] = self._core.read_model(*contents)
            except Exception as error:
                raise UserError(
                    f"openvino {ov.__version__} cannot load {files[0]}: {_reason(error)}"
                ) from error
        return self._models[name]

    def _request(self, name: str, shape: tuple[int, ...]) -> Any:
        """The request of a graph for images of a shape; compiled if it is new."""
        if self._closed:
            raise RuntimeError("the session is closed")
        key = (name, shape)
        if key not in self._compiled:
            model = self._model(name).clone()
            try:
                model.reshape({self._contract.input.name: list(shape)})
            except Exception as error:
                raise UserError(f"{name} cannot take images of shape {shape}: {_reason(error)}") from error
            compiled = compile_graph(
                self._core, model, name, threads=self._threads, wanted=_HINTS[self._precision]
            )
            self._compiled[key] = compiled.create_infer_request()
        self._compiled[key] = self._compiled.pop(key)  # the youngest stands last
        of_graph = [other for other in self._compiled if other[0] == name]
        for oldest in of_graph[:-SHAPES]:
            del self._compiled[oldest]
        return self._compiled[key]

    def _run(self, name: str, output: str, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        admitted = self._contract.admit(images)
        request = self._request(name, admitted.shape)
        # The images are only read during the call; the result is copied, since the request will reuse it.
        results = request.infer({self._contract.input.name: admitted}, share_inputs=True, share_outputs=False)
        return np.asarray(results[output])


def _reason(error: Exception) -> str:
    """The last line of OpenVINO's text: those above say where in its sources it happened."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
