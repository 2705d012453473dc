"""Device memory through pycuda, which has streams, events and page-locked memory, but no CUDA graphs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from afdcd.errors import UserError
from deploy.tensorrt.memory import Bytes, Gpu, Work, refused

Value = TypeVar("Value")

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: work of the default stream is not waited for. pycuda has no name for it."""


class PycudaMemory:
    """`deploy.tensorrt.memory.DeviceMemory` on the primary context of the first GPU."""

    graphs = False

    def __init__(self) -> None:
        try:
            cuda: Any = importlib.import_module("pycuda.driver")
        except ImportError as error:
            raise UserError(
                f"pycuda cannot be loaded ({error}); build it as docs/tensorrt.md says, or take cuda-python"
            ) from error
        self._cuda = cuda
        self._call("init", cuda.init)
        self._device = self._call("Device", cuda.Device, 0)
        self._context = self._call("retain_primary_context", self._device.retain_primary_context)
        self._allocated: dict[int, Any] = {}

    def gpu(self) -> Gpu:
        """Name and compute capability of the device."""
        major, minor = self._device.compute_capability()
        return Gpu(str(self._device.name()), f"{major}.{minor}")

    @contextmanager
    def current(self) -> Iterator[None]:
        """Push the context on this thread's stack, and pop it."""
        self._context.push()
        try:
            yield
        finally:
            self._cuda.Context.pop()

    def stream(self) -> Any:
        """A new stream."""
        return self._call("Stream", self._cuda.Stream, NON_BLOCKING)

    def handle(self, stream: Any) -> int:
        """The stream's number."""
        return int(stream.handle)

    def synchronize(self, stream: Any) -> None:
        """Wait for a stream."""
        self._call("Stream.synchronize", stream.synchronize)

    def release(self, stream: Any) -> None:
        """Nothing to do: pycuda destroys a stream with its last reference."""

    def alloc(self, size: int) -> int:
        """New device memory."""
        allocation = self._call("mem_alloc", self._cuda.mem_alloc, size)
        address = int(allocation)
        self._allocated[address] = allocation
        return address

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._call("DeviceAllocation.free", self._allocated.pop(address).free)

    def pinned(self, size: int) -> Bytes:
        """New page-locked memory."""
        array: Bytes = self._call("pagelocked_empty", self._cuda.pagelocked_empty, (size,), np.uint8)
        return array

    def unpin(self, array: Bytes) -> None:
        """Free the allocation that the array lies in."""
        allocation: Any = array.base
        self._call("PagelockedHostAllocation.free", allocation.free)

    def upload(self, address: int, source: Bytes, stream: Any) -> None:
        """Queue a copy to the device."""
        self._call("memcpy_htod_async", self._cuda.memcpy_htod_async, address, source, stream)

    def download(self, target: Bytes, address: int, stream: Any) -> None:
        """Queue a copy from the device."""
        self._call("memcpy_dtoh_async", self._cuda.memcpy_dtoh_async, target, address, stream)

    def elapsed_ms(self, stream: Any, work: Work) -> float:
        """Time between two events."""
        start, end = self._cuda.Event(), self._cuda.Event()
        start.record(stream)
        work()
        end.record(stream)
        self._call("Event.synchronize", end.synchronize)
        return float(start.time_till(end))

    def capture(self, stream: Any, work: Work) -> None:
        """None: pycuda cannot capture."""
        return None

    def _call(self, name: str, function: Callable[..., Value], *arguments: Any) -> Value:
        try:
            return function(*arguments)
        except self._cuda.Error as error:
            raise refused(name, str(error), memory=isinstance(error, self._cuda.MemoryError)) from error
