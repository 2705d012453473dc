"""ONNX Runtime: on the CPU, and on NVIDIA GPUs through its CUDA and TensorRT providers.

A provider that quietly hands work to another is an error. Left alone, ONNX Runtime does so twice: when a
provider cannot start, it opens the session on the next one; and nodes that a provider does not run go to the
CPU. So the substitute is switched off, and where each node went is read back.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from afdcd.errors import UserError
from deploy.bundle import CLASS_MAP, LOGITS, Contract
from deploy.config import Precision
from deploy.sessions import Reader
from deploy.sessions.capability import NO_DRIVER, nvidia_driver

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

SHAPE_ARITHMETIC = frozenset(
    {
        *("Shape", "Size", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Cast", "Constant"),
        *("Add", "Sub", "Mul", "Div", "Mod", "Equal", "Less", "Greater", "And", "Where", "Range", "Expand"),
    }
)
"""What a graph of free sizes computes them with; ONNX Runtime puts these on the CPU on purpose."""


def open_graph(
    graph: bytes | str,
    name: str,
    *,
    threads: int,
    provider: str = CPU,
    settings: dict[str, str] | None = None,
) -> ort.InferenceSession:
    """An ONNX graph on one provider with `threads` CPU threads inside an operator, one operator at a time.

    Args:
        graph: the content of the file; or its path, where it keeps weights in other files.
        name: the file's name, for messages.
        threads: CPU threads.
        provider: as ONNX Runtime calls it.
        settings: the provider's own.

    Raises:
        UserError: this onnxruntime lacks the provider, a GPU's driver does not answer, the graph cannot be
            loaded, or a part of it went to another provider than the one asked for.
    """
    _require(provider)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    if provider != CPU:
        tells = hasattr(ort.InferenceSession, "get_provider_graph_assignment_info")
        # A version that cannot tell where its nodes went must refuse to move any.
        key = "record_ep_graph_assignment_info" if tells else "disable_cpu_ep_fallback"
        options.add_session_config_entry(f"session.{key}", "1")
    try:
        session = ort.InferenceSession(
            graph, options, providers=[(provider, settings or {})], enable_fallback=False
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"onnxruntime {ort.__version__} cannot load {name}: {reason}") from error
    require_all_there(session, name, provider)
    return session


def _require(provider: str) -> None:
    """Refuse a provider that cannot work here; the driver is asked before the provider's libraries load."""
    if provider == CPU:
        return
    available = ort.get_available_providers()
    if provider not in available:
        raise UserError(
            f"onnxruntime {ort.__version__} has no {provider}, only {', '.join(available)}; "
            "uninstall onnxruntime and install onnxruntime-gpu alone, or take the backend onnxruntime"
        )
    if not nvidia_driver():
        raise UserError(f"{provider} {NO_DRIVER}; take the backend onnxruntime")
    # CUDA's libraries may lie in the packages that PyTorch brings along; what fails here, opening tells.
    with redirect_stdout(io.StringIO()):
        ort.preload_dlls()


def require_all_there(session: ort.InferenceSession, name: str, provider: str) -> None:
    """Refuse a session of which ONNX Runtime put more than shape arithmetic elsewhere.

    Raises:
        UserError: with the providers, or the first node, that are not where they should be.
    """
    providers = session.get_providers()
    # The CPU is always there as the last resort.
    if providers != ([CPU] if provider == CPU else [provider, CPU]):
        raise UserError(f"{name}: asked onnxruntime for {provider}, it took {providers}")
    if provider == CPU or not hasattr(session, "get_provider_graph_assignment_info"):
        return
    elsewhere = [
        (node.op_type, node.name, part.ep_name)
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != provider
        for node in part.get_nodes()
        if node.op_type not in SHAPE_ARITHMETIC
    ]
    if elsewhere:
        operator, node, place = elsewhere[0]
        raise UserError(
            f"{name}: asked onnxruntime for {provider}, but {len(elsewhere)} of its nodes run elsewhere, the "
            f"first is {operator} {node!r} on {place}; take a graph that the provider runs whole, or another "
            "backend"
        )


class Placed:
    """A graph whose inputs and outputs lie where the provider takes and puts them, to time its run alone."""

    def __init__(
        self, session: ort.InferenceSession, feed: Mapping[str, npt.NDArray[Any]], provider: str = CPU
    ) -> None:
        """Place copies of the inputs and run once: that warms up and says where the outputs go."""
        device = "cpu" if provider == CPU else "cuda"
        self._session = session
        self._binding = session.io_binding()
        self._inputs: dict[str, ort.OrtValue] = {}
        for name, value in feed.items():
            # A copy: on the CPU an OrtValue would be the caller's own memory.
            self._inputs[name] = ort.OrtValue.ortvalue_from_numpy(np.array(value, order="C"), device, 0)
            self._binding.bind_ortvalue_input(name, self._inputs[name])
        names = [output.name for output in session.get_outputs()]
        for name in names:
            self._binding.bind_output(name, device)
        session.run_with_iobinding(self._binding)
        for name, output in zip(names, self._binding.get_outputs(), strict=True):
            if output.is_tensor():
                self._binding.bind_ortvalue_output(name, output)

    def place(self, feed: Mapping[str, npt.NDArray[Any]]) -> None:
        """Other inputs of the same shapes."""
        for name, value in feed.items():
            self._inputs[name].update_inplace(value)

    def run_ms(self) -> float:
        """Milliseconds of a run; with a GPU, until it has finished."""
        start = time.perf_counter_ns()
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        return (time.perf_counter_ns() - start) / 1e6


class OnnxRuntimeSession:
    """Runs class_map.onnx; opens logits.onnx only when logits are asked for."""

    provider: ClassVar[str] = CPU

    def __init__(
        self, contract: Contract, read: Reader, *, threads: int, precision: Precision = "fp32"
    ) -> None:
        self._contract = contract
        self._read = read
        self._threads = threads
        self._settings = self.settings(precision)
        self._open: dict[str, ort.InferenceSession] = {}
        self._placed: tuple[tuple[int, ...], Placed] | None = None
        self._closed = False
        self._graph(CLASS_MAP)

    @staticmethod
    def settings(precision: Precision) -> dict[str, str]:
        """What the provider is told for graphs of a precision."""
        return {}

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
        """Milliseconds of one run of the class map's graph on images that lie in place."""
        feed = {self._contract.input.name: self._contract.admit(images)}
        graph, shape = self._graph(CLASS_MAP), images.shape
        if self._placed is None or self._placed[0] != shape:
            self._placed = (shape, Placed(graph, feed, self.provider))
        else:
            self._placed[1].place(feed)
        return self._placed[1].run_ms()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._placed = None
        self._open.clear()

    def _graph(self, name: str) -> ort.InferenceSession:
        if self._closed:
            raise RuntimeError("the session is closed")
        if name not in self._open:
            self._open[name] = open_graph(
                self._read(name),
                name,
                threads=self._threads,
                provider=self.provider,
                settings=self._settings,
            )
        return self._open[name]

    def _run(self, name: str, output: str, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        admitted = self._contract.admit(images)
        (result,) = self._graph(name).run([output], {self._contract.input.name: admitted})
        return np.asarray(result)


class CudaSession(OnnxRuntimeSession):
    """The same graphs through the CUDA provider; float32 stays float32, without TensorFloat-32."""

    provider: ClassVar[str] = CUDA

    @staticmethod
    def settings(precision: Precision) -> dict[str, str]:
        """What the provider is told for graphs of a precision."""
        return {"use_tf32": "0"} if precision == "fp32" else {}


class TensorRtSession(OnnxRuntimeSession):
    """The same graphs through the TensorRT provider.

    TensorRT 10 needs leave for what the graph is typed in; TensorRT 11 follows the graph and ignores it.
    """

    provider: ClassVar[str] = TENSORRT

    @staticmethod
    def settings(precision: Precision) -> dict[str, str]:
        """What the provider is told for graphs of a precision."""
        leave = {"fp16": "trt_fp16_enable", "bf16": "trt_bf16_enable", "int8": "trt_int8_enable"}
        return {leave[precision]: "1"} if precision in leave else {}
