"""A plan that runs: the engine, and lanes of it, each with a context, a stream and buffers of its own."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from afdcd.errors import UserError
from deploy.tensorrt.bindings import Bindings
from deploy.tensorrt.memory import Bytes, Captured, DeviceMemory
from deploy.tensorrt.messages import last_error, listen
from deploy.tensorrt.profiles import Shape

TYPES: dict[str, type[np.generic]] = {
    "UINT8": np.uint8,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
    "HALF": np.float16,
    "FLOAT": np.float32,
}
"""numpy's type of a TensorRT type."""

WARM = 2
"""Runs before a graph is captured: the first load kernels, which must not happen while capturing."""


class Engine:
    """A deserialised plan with one input and one output; made inside `memory.current()`."""

    def __init__(self, bindings: Bindings, plan: bytes, name: str) -> None:
        """Deserialise.

        Raises:
            UserError: TensorRT refuses the plan, or it has other inputs and outputs than one each.
        """
        self.bindings = bindings
        self.name = name
        self.listener = listen(bindings)
        self._runtime = bindings.api.Runtime(self.listener)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise UserError(
                f"{bindings} refuses {name}: {last_error(self.listener)}; "
                "build the bundle again on this device"
            )
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self.inputs = [tensor for tensor in names if self._mode(tensor) == "INPUT"]
        self.outputs = [tensor for tensor in names if self._mode(tensor) == "OUTPUT"]
        if len(self.inputs) != 1 or len(self.outputs) != 1:
            raise UserError(
                f"{name} has the inputs {self.inputs} and outputs {self.outputs}; one of each is expected"
            )

    def context(self) -> Any:
        """A new execution context; one thread at a time may use it.

        Raises:
            UserError: TensorRT cannot make one, mostly for want of GPU memory.
        """
        made = self._engine.create_execution_context()
        if made is None:
            raise UserError(f"{self.bindings} cannot run {self.name}: {last_error(self.listener)}")
        return made

    def dtype(self, tensor: str) -> np.dtype[Any]:
        """The type of an input's or output's elements.

        Raises:
            UserError: numpy has none like it.
        """
        kind = self._engine.get_tensor_dtype(tensor).name
        if kind not in TYPES:
            raise UserError(f"{self.name}: {tensor} is {kind}, of which the runner knows no way to numpy")
        return np.dtype(TYPES[kind])

    def close(self) -> None:
        """Give engine and runtime back, in this order."""
        del self._engine, self._runtime

    def _mode(self, tensor: str) -> str:
        return str(self._engine.get_tensor_mode(tensor).name)


class Lane:
    """One way through an engine for images of one shape; everything is allocated once, addresses never move.

    Made, used and closed inside `memory.current()`, by one thread at a time.
    """

    def __init__(self, engine: Engine, memory: DeviceMemory, shape: Shape) -> None:
        """Allocate, run twice, and capture a CUDA graph where library and engine can.

        Raises:
            UserError: the shape is outside the plan's profile, or memory is short.
        """
        self.shape = shape
        self.graph: Captured | None = None
        self._engine = engine
        self._memory = memory
        with ExitStack() as undo:
            self._stream = memory.stream()
            undo.callback(memory.release, self._stream)
            self._context = engine.context()
            undo.callback(self._forget)
            self._fix_shape(shape)
            self._input, self._device_input = self._buffer(engine.inputs[0], undo)
            self._output, self._device_output = self._buffer(engine.outputs[0], undo)
            undo.callback(self._settle)
            for _ in range(WARM):
                self._step()
            memory.synchronize(self._stream)
            if memory.graphs and self._capturable():
                self.graph = memory.capture(self._stream, self._step)
                if self.graph is not None:
                    undo.callback(self.graph.destroy)
            self._undo = undo.pop_all()

    def __call__(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The output for images of the lane's shape, as an array of its own.

        Raises:
            UserError: TensorRT or the GPU refuse; the lane must not be used again.
        """
        np.copyto(self._input, images)
        if self.graph is not None:
            self.graph.launch()
        else:
            self._step()
        self._memory.synchronize(self._stream)
        return self._output.copy()

    def compute_ms(self, images: npt.NDArray[Any]) -> float:
        """Milliseconds of the GPU for the engine alone, without copies, by events around it."""
        np.copyto(self._input, images)
        self._memory.upload(self._device_input, self._bytes(self._input), self._stream)
        return self._memory.elapsed_ms(self._stream, self._execute)

    def close(self) -> None:
        """Give graph, buffers, context and stream back, in this order."""
        self._undo.close()

    def _settle(self) -> None:
        """Wait for copies that are under way before their buffers go; an error was told where it happened."""
        with suppress(UserError):
            self._memory.synchronize(self._stream)

    def _forget(self) -> None:
        """Drop the context while stream and engine are there."""
        del self._context

    def _fix_shape(self, shape: Shape) -> None:
        name = self._engine.inputs[0]
        context = self._context
        good = context.set_optimization_profile_async(0, self._memory.handle(self._stream))
        self._memory.synchronize(self._stream)
        if not good or not context.set_input_shape(name, shape) or context.infer_shapes():
            raise UserError(
                f"{self._engine.name} takes no input {name} of shape {shape}: {self._error()}; "
                "build it for such shapes (deploy.export.batch and deploy.export.dynamic)"
            )

    def _buffer(self, tensor: str, undo: ExitStack) -> tuple[npt.NDArray[Any], int]:
        """A page-locked array of the tensor's shape, and its twin on the device."""
        shape = tuple(self._context.get_tensor_shape(tensor))
        dtype = self._engine.dtype(tensor)
        size = int(np.prod(shape)) * dtype.itemsize
        host = self._memory.pinned(size)
        undo.callback(self._memory.unpin, host)
        address = self._memory.alloc(size)
        undo.callback(self._memory.free, address)
        if not self._context.set_tensor_address(tensor, address):
            raise UserError(f"{self._engine.name} refuses memory for {tensor}: {self._error()}")
        return host.view(dtype).reshape(shape), address

    def _step(self) -> None:
        """Queue upload, engine and download."""
        self._memory.upload(self._device_input, self._bytes(self._input), self._stream)
        self._execute()
        self._memory.download(self._bytes(self._output), self._device_output, self._stream)

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._memory.handle(self._stream)):
            raise UserError(f"{self._engine.bindings} cannot run {self._engine.name}: {self._error()}")

    def _capturable(self) -> bool:
        """TensorRT-RTX says whether an engine can be captured; TensorRT is asked by trying."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return ask is None or bool(ask(self._memory.handle(self._stream)))

    def _error(self) -> str:
        return last_error(self._engine.listener)

    @staticmethod
    def _bytes(array: npt.NDArray[Any]) -> Bytes:
        return array.reshape(-1).view(np.uint8)
