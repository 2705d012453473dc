"""Device memory behind a small protocol, so that the runner knows neither pycuda nor cuda-python."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt

from afdcd.errors import UserError
from afdcd.plugins import resolve
from deploy.sessions.capability import NO_DRIVER, memory_libraries, nvidia_driver

Bytes = npt.NDArray[np.uint8]
Work = Callable[[], None]

MEMORIES = {
    "pycuda": "deploy.tensorrt.memory_pycuda:PycudaMemory",
    "cuda_python": "deploy.tensorrt.memory_cuda_python:CudaPythonMemory",
}
"""The first that `memory_libraries` finds serves."""


class Gpu(NamedTuple):
    """The device that work goes to."""

    name: str
    compute_capability: str


class DeviceMemory(Protocol):
    """Memory, streams and copies of the first GPU. Addresses are integers; a stream is what `stream` gave.

    All calls but `gpu` and `current` are made inside `with current():`, on any thread.

    Attributes:
        graphs: whether `capture` can work.
    """

    graphs: bool

    def gpu(self) -> Gpu:
        """Name and compute capability of the device."""
        ...

    def current(self) -> AbstractContextManager[None]:
        """Make the device's primary context, which PyTorch uses too, that of the calling thread."""
        ...

    def stream(self) -> Any:
        """A new stream, never the default one: TensorRT synchronises more on that."""
        ...

    def handle(self, stream: Any) -> int:
        """The number by which TensorRT knows a stream."""
        ...

    def synchronize(self, stream: Any) -> None:
        """Wait until all work of a stream is done; errors of that work come out here."""
        ...

    def release(self, stream: Any) -> None:
        """Give a stream back."""
        ...

    def alloc(self, size: int) -> int:
        """The address of `size` new bytes on the device."""
        ...

    def free(self, address: int) -> None:
        """Give device memory back."""
        ...

    def pinned(self, size: int) -> Bytes:
        """`size` page-locked bytes of the host, (size,): only from these are copies truly asynchronous."""
        ...

    def unpin(self, array: Bytes) -> None:
        """Give page-locked memory back; no view of it may be used again."""
        ...

    def upload(self, address: int, source: Bytes, stream: Any) -> None:
        """Queue a copy of page-locked bytes to the device."""
        ...

    def download(self, target: Bytes, address: int, stream: Any) -> None:
        """Queue a copy from the device into page-locked bytes."""
        ...

    def elapsed_ms(self, stream: Any, work: Work) -> float:
        """Milliseconds of the GPU between events around what `work` queues; waits for it."""
        ...

    def capture(self, stream: Any, work: Work) -> Captured | None:
        """What `work` queues on the stream, as a CUDA graph; None where that cannot be captured."""
        ...


class Captured(Protocol):
    """A CUDA graph ready to run."""

    def launch(self) -> None:
        """Queue the captured work."""
        ...

    def destroy(self) -> None:
        """Give it back."""
        ...


def open_memory(name: str | None = None) -> DeviceMemory:
    """The device memory of this machine; the driver is asked before any library is imported.

    Args:
        name: a key of `MEMORIES`; None takes the first that is installed.

    Raises:
        UserError: no driver answers, the name is unknown, or no library is installed.
    """
    if not nvidia_driver():
        raise UserError(f"device memory {NO_DRIVER}; see docs/tensorrt.md")
    chosen = name or next(iter(memory_libraries()), None)
    if chosen is None:
        raise UserError(
            "device memory needs pycuda or cuda-python, and neither is installed; "
            "pip install -e '.[pycuda]', or pip install cuda-python"
        )
    return cast(DeviceMemory, resolve(MEMORIES, chosen, "device memory")())


def refused(call: str, reason: str, *, memory: bool) -> UserError:
    """The error of a CUDA call that failed.

    Args:
        call: its name.
        reason: CUDA's own words.
        memory: whether there was no memory left.
    """
    remedy = (
        "free memory of the GPU, or take smaller batches or sizes"
        if memory
        else "start the process again; if it happens again, update the driver"
    )
    return UserError(f"the GPU refused {call} ({reason}); {remedy}")
