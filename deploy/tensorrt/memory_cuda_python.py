"""Device memory through cuda-python (`cuda.bindings.runtime`), with CUDA graphs."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from afdcd.errors import UserError
from deploy.tensorrt.memory import Bytes, Gpu, Work, refused


class CudaPythonMemory:
    """`deploy.tensorrt.memory.DeviceMemory` on the primary context of the first GPU."""

    graphs = True

    def __init__(self) -> None:
        try:
            self._cuda: Any = importlib.import_module("cuda.bindings.runtime")
        except ImportError as error:
            raise UserError(f"cuda-python cannot be loaded ({error}); pip install cuda-python") from error

    def gpu(self) -> Gpu:
        """Name and compute capability of the device."""
        properties = self._call("cudaGetDeviceProperties", 0)
        name = bytes(properties.name).split(b"\0", 1)[0].decode()
        return Gpu(name, f"{properties.major}.{properties.minor}")

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make device 0 that of this thread; the runtime API then uses its primary context."""
        before = self._call("cudaGetDevice")
        self._call("cudaSetDevice", 0)
        try:
            yield
        finally:
            self._call("cudaSetDevice", before)

    def stream(self) -> Any:
        """A new stream that does not wait for the default one."""
        return self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)

    def handle(self, stream: Any) -> int:
        """The stream's number."""
        return int(stream)

    def synchronize(self, stream: Any) -> None:
        """Wait for a stream."""
        self._call("cudaStreamSynchronize", stream)

    def release(self, stream: Any) -> None:
        """Give a stream back."""
        self._call("cudaStreamDestroy", stream)

    def alloc(self, size: int) -> int:
        """New device memory."""
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._call("cudaFree", address)

    def pinned(self, size: int) -> Bytes:
        """New page-locked memory."""
        address = int(self._call("cudaMallocHost", size))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def unpin(self, array: Bytes) -> None:
        """Give page-locked memory back."""
        self._call("cudaFreeHost", array.ctypes.data)

    def upload(self, address: int, source: Bytes, stream: Any) -> None:
        """Queue a copy to the device."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, kind, stream)

    def download(self, target: Bytes, address: int, stream: Any) -> None:
        """Queue a copy from the device."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, kind, stream)

    def elapsed_ms(self, stream: Any, work: Work) -> float:
        """Time between two events."""
        start, end = self._call("cudaEventCreate"), self._call("cudaEventCreate")
        try:
            self._call("cudaEventRecord", start, stream)
            work()
            self._call("cudaEventRecord", end, stream)
            self._call("cudaEventSynchronize", end)
            return float(self._call("cudaEventElapsedTime", start, end))
        finally:
            for event in (start, end):
                self._call("cudaEventDestroy", event)

    def capture(self, stream: Any, work: Work) -> _Graph | None:
        """What `work` queues as a graph; None where an engine has a part that cannot be captured."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        try:
            work()
            whole = True
        except UserError:
            whole = False
        # Not through _call: a capture that a part of the engine has ended is no error.
        code, captured = self._cuda.cudaStreamEndCapture(stream)
        if code != self._cuda.cudaError_t.cudaSuccess:
            return None
        try:
            return _Graph(self, self._call("cudaGraphInstantiate", captured, 0), stream) if whole else None
        finally:
            self._call("cudaGraphDestroy", captured)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the runtime: its first result is a code, its second, if any, the value."""
        code, *values = getattr(self._cuda, name)(*arguments)
        errors = self._cuda.cudaError_t
        if code != errors.cudaSuccess:
            _, text = self._cuda.cudaGetErrorString(code)
            raise refused(name, bytes(text).decode(), memory=code == errors.cudaErrorMemoryAllocation)
        return values[0] if values else None


class _Graph:
    """A CUDA graph of one stream."""

    def __init__(self, memory: CudaPythonMemory, executable: Any, stream: Any) -> None:
        self._memory = memory
        self._executable = executable
        self._stream = stream

    def launch(self) -> None:
        """Queue the captured work."""
        self._memory._call("cudaGraphLaunch", self._executable, self._stream)

    def destroy(self) -> None:
        """Give the graph back."""
        self._memory._call("cudaGraphExecDestroy", self._executable)
