"""A GPU of one process in ordinary memory: work waits on a stream until somebody synchronises it.

So a result that is read too early is the old one, a buffer that was given back is refused, and what nobody
gave back is counted.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Work = Callable[[], None]


class FakeGpu:
    """Memory, page-locked memory, streams, captures, and whose context is current on which thread."""

    name, compute_capability = "Imaginary H1", (9, 0)

    def __init__(self, limit: int = 1 << 30) -> None:
        self.limit = limit
        self.device: dict[int, npt.NDArray[np.uint8]] = {}
        self.host: dict[int, npt.NDArray[np.uint8]] = {}
        self.streams: dict[int, list[Work]] = {}
        self.captures: dict[int, list[Work]] = {}
        self.graphs = 0
        self.launches = 0
        self.depth = threading.local()
        self.lock = threading.RLock()

    def enter(self, change: int) -> None:
        self.depth.value = getattr(self.depth, "value", 0) + change

    def require_current(self) -> None:
        assert getattr(self.depth, "value", 0) > 0, "no context is current on this thread"

    def allocate(self, place: dict[int, npt.NDArray[np.uint8]], size: int) -> int | None:
        self.require_current()
        with self.lock:
            if size + sum(array.nbytes for array in place.values()) > self.limit:
                return None
            array = np.full(size, 0xAB, dtype=np.uint8)
            place[array.ctypes.data] = array
            return int(array.ctypes.data)

    def new_stream(self) -> int:
        self.require_current()
        with self.lock:
            handle = 1000 + len(self.streams) + 7 * self.launches
            while handle in self.streams:
                handle += 1
            self.streams[handle] = []
            return handle

    def queue(self, handle: int, work: Work) -> None:
        self.require_current()
        assert handle in self.streams, f"no stream {handle}"
        self.captures.get(handle, self.streams[handle]).append(work)

    def wait(self, handle: int) -> None:
        self.require_current()
        assert handle not in self.captures, "a stream that is being captured was waited for"
        pending, self.streams[handle] = self.streams[handle], []
        for work in pending:
            work()

    def copy(self, target: int, source: int, size: int, handle: int, *, to_device: bool) -> None:
        """Queue a copy; both ends must be there now and when it runs."""
        places = (self.device, self.host) if to_device else (self.host, self.device)

        def work() -> None:
            for place, address in zip(places, (target, source), strict=True):
                assert any(
                    start <= address and address + size <= start + a.nbytes for start, a in place.items()
                )
            ctypes.memmove(target, source, size)

        self.queue(handle, work)

    def left(self) -> dict[str, int]:
        """What nobody gave back."""
        counts = {
            "device": self.device,
            "host": self.host,
            "streams": self.streams,
            "captures": self.captures,
        }
        return {name: len(held) for name, held in counts.items() if held} | (
            {"graphs": self.graphs} if self.graphs else {}
        )


def fake_pycuda(gpu: FakeGpu) -> Any:
    """`pycuda.driver` on an imaginary GPU."""

    class Error(Exception):
        pass

    class OutOfMemory(Error):  # noqa: N818 (it is called MemoryError there)
        pass

    class Context:
        def push(self) -> None:
            gpu.enter(1)

        @staticmethod
        def pop() -> None:
            gpu.enter(-1)

    class Device:
        def __init__(self, ordinal: int) -> None:
            assert ordinal == 0

        def name(self) -> str:
            return gpu.name

        def compute_capability(self) -> tuple[int, int]:
            return gpu.compute_capability

        def retain_primary_context(self) -> Context:
            return Context()

    class Stream:
        def __init__(self, flags: int = 0) -> None:
            assert flags == 1, "a stream that waits for the default one"
            self.handle = gpu.new_stream()

        def synchronize(self) -> None:
            gpu.wait(self.handle)

        def __del__(self) -> None:
            gpu.streams.pop(self.handle, None)

    class DeviceAllocation:
        def __init__(self, address: int) -> None:
            self.address = address

        def __int__(self) -> int:
            return self.address

        def free(self) -> None:
            gpu.require_current()
            del gpu.device[self.address]

    class PagelockedHostAllocation:
        def __init__(self, address: int, size: int) -> None:
            self.address = address
            self.__array_interface__ = {
                "data": (address, False),
                "shape": (size,),
                "typestr": "|u1",
                "version": 3,
            }

        def free(self) -> None:
            gpu.require_current()
            del gpu.host[self.address]

    class Event:
        def __init__(self, flags: int = 0) -> None:
            self.stream: Stream | None = None

        def record(self, stream: Stream | None = None) -> Event:
            assert stream is not None, "an event on the default stream"
            self.stream = stream
            return self

        def synchronize(self) -> Event:
            assert self.stream is not None
            self.stream.synchronize()
            return self

        def time_till(self, end: Event) -> float:
            assert self.stream is end.stream
            return 1.5

    def mem_alloc(bytes: int) -> DeviceAllocation:
        address = gpu.allocate(gpu.device, bytes)
        if address is None:
            raise OutOfMemory("cuMemAlloc failed: out of memory")
        return DeviceAllocation(address)

    def pagelocked_empty(shape: tuple[int], dtype: Any, order: str = "C", mem_flags: int = 0) -> Any:
        assert dtype == np.uint8 and len(shape) == 1
        address = gpu.allocate(gpu.host, shape[0])
        if address is None:
            raise OutOfMemory("cuMemHostAlloc failed: out of memory")
        return np.asarray(PagelockedHostAllocation(address, shape[0]))

    def memcpy_htod_async(dest: int, src: Any, stream: Stream | None = None) -> None:
        assert stream is not None, "a copy on the default stream"
        gpu.copy(dest, src.ctypes.data, src.nbytes, stream.handle, to_device=True)

    def memcpy_dtoh_async(dest: Any, src: int, stream: Stream | None = None) -> None:
        assert stream is not None, "a copy on the default stream"
        gpu.copy(dest.ctypes.data, src, dest.nbytes, stream.handle, to_device=False)

    def init(flags: int = 0) -> None:
        assert flags == 0

    return _module("pycuda.driver", locals(), MemoryError=OutOfMemory)


def fake_cuda_runtime(gpu: FakeGpu) -> Any:
    """`cuda.bindings.runtime` on an imaginary GPU; the parameters have the real names."""
    from enum import IntEnum
    from types import SimpleNamespace

    class cudaError_t(IntEnum):  # noqa: N801 (NVIDIA's names here and below)
        cudaSuccess = 0  # noqa: N815
        cudaErrorMemoryAllocation = 2  # noqa: N815

    class cudaMemcpyKind(IntEnum):  # noqa: N801
        cudaMemcpyHostToDevice = 1  # noqa: N815
        cudaMemcpyDeviceToHost = 2  # noqa: N815

    class cudaStreamCaptureMode(IntEnum):  # noqa: N801
        cudaStreamCaptureModeThreadLocal = 1  # noqa: N815

    cudaStreamNonBlocking = 1  # noqa: N806
    good = (cudaError_t.cudaSuccess,)
    short = (cudaError_t.cudaErrorMemoryAllocation, None)

    def cudaGetErrorString(error: int) -> Any:  # noqa: N802
        return (*good, b"out of memory" if error == 2 else b"some error")

    def cudaGetDevice() -> Any:  # noqa: N802
        return (*good, 0)

    def cudaSetDevice(device: int) -> Any:  # noqa: N802
        assert device == 0
        gpu.depth.value = 1  # the runtime keeps its context current
        return good

    def cudaGetDeviceProperties(device: int) -> Any:  # noqa: N802
        major, minor = gpu.compute_capability
        name = gpu.name.encode().ljust(256, b"\0")
        return (*good, SimpleNamespace(name=name, major=major, minor=minor))

    def cudaStreamCreateWithFlags(flags: int) -> Any:  # noqa: N802
        assert flags == cudaStreamNonBlocking
        return (*good, gpu.new_stream())

    def cudaStreamSynchronize(stream: int) -> Any:  # noqa: N802
        gpu.wait(stream)
        return good

    def cudaStreamDestroy(stream: int) -> Any:  # noqa: N802
        assert not gpu.streams.pop(stream), "a stream with work left was destroyed"
        return good

    def cudaMalloc(size: int) -> Any:  # noqa: N802
        address = gpu.allocate(gpu.device, size)
        return short if address is None else (*good, address)

    def cudaFree(devPtr: int) -> Any:  # noqa: N802, N803
        del gpu.device[devPtr]
        return good

    def cudaMallocHost(size: int) -> Any:  # noqa: N802
        address = gpu.allocate(gpu.host, size)
        return short if address is None else (*good, address)

    def cudaFreeHost(ptr: int) -> Any:  # noqa: N802
        del gpu.host[ptr]
        return good

    def cudaMemcpyAsync(dst: int, src: int, count: int, kind: int, stream: int) -> Any:  # noqa: N802
        gpu.copy(dst, src, count, stream, to_device=kind == cudaMemcpyKind.cudaMemcpyHostToDevice)
        return good

    def cudaEventCreate() -> Any:  # noqa: N802
        return (*good, {"stream": None})

    def cudaEventRecord(event: Any, stream: int) -> Any:  # noqa: N802
        event["stream"] = stream
        return good

    def cudaEventSynchronize(event: Any) -> Any:  # noqa: N802
        gpu.wait(event["stream"])
        return good

    def cudaEventElapsedTime(start: Any, end: Any) -> Any:  # noqa: N802
        assert start["stream"] == end["stream"]
        return (*good, 1.5)

    def cudaEventDestroy(event: Any) -> Any:  # noqa: N802
        return good

    def cudaStreamBeginCapture(stream: int, mode: int) -> Any:  # noqa: N802
        assert not gpu.streams[stream], "captured before the work in front was done"
        gpu.captures[stream] = []
        return good

    def cudaStreamEndCapture(stream: int) -> Any:  # noqa: N802
        gpu.graphs += 1
        return (*good, gpu.captures.pop(stream))

    def cudaGraphInstantiate(graph: Any, flags: int) -> Any:  # noqa: N802
        gpu.graphs += 1
        return (*good, graph)

    def cudaGraphDestroy(graph: Any) -> Any:  # noqa: N802
        gpu.graphs -= 1
        return good

    def cudaGraphExecDestroy(graphExec: Any) -> Any:  # noqa: N802, N803
        gpu.graphs -= 1
        return good

    def cudaGraphLaunch(graphExec: Any, stream: int) -> Any:  # noqa: N802, N803
        gpu.launches += 1
        for work in graphExec:
            gpu.queue(stream, work)
        return good

    return _module("cuda.bindings.runtime", locals())


def _module(name: str, members: dict[str, Any], **more: Any) -> Any:
    from types import ModuleType

    module = ModuleType(name)
    hidden = ("gpu", "good", "short")
    module.__dict__.update({key: value for key, value in members.items() if key not in hidden})
    module.__dict__.update(more)
    return module
