"""Lanes of one engine, shared by threads: each call has one for itself."""

from __future__ import annotations

from collections.abc import Callable
from threading import BoundedSemaphore, Lock
from typing import Any, TypeVar

import numpy.typing as npt

from deploy.tensorrt.engine import Engine, Lane
from deploy.tensorrt.memory import DeviceMemory
from deploy.tensorrt.profiles import Shape

Result = TypeVar("Result")

SHAPES = 4
"""Lanes a thread that are kept: as many sizes can take turns without building anything anew."""


class Pool:
    """At most `threads` calls at once, the others wait; lanes are kept by shape."""

    def __init__(self, engine: Engine, memory: DeviceMemory, *, threads: int) -> None:
        self.threads = threads
        self._engine = engine
        self._memory = memory
        self._turn = BoundedSemaphore(threads)
        self._lock = Lock()
        self._idle: list[Lane] = []
        self._closed = False

    def run(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The output for a batch.

        Raises:
            UserError: the shape is outside the profile, or the GPU refuses; that lane is not used again.
            RuntimeError: the pool is closed.
        """
        return self._call(images, Lane.__call__)

    def compute_ms(self, images: npt.NDArray[Any]) -> float:
        """Milliseconds of the GPU for the engine alone.

        Raises:
            UserError: as `run`.
        """
        return self._call(images, Lane.compute_ms)

    def captured(self) -> bool:
        """Whether the lanes that are idle all run as CUDA graphs; False without one."""
        with self._lock:
            return bool(self._idle) and all(lane.graph is not None for lane in self._idle)

    def close(self) -> None:
        """Wait for running calls, then give everything back."""
        for _ in range(self.threads):
            self._turn.acquire()
        try:
            self._closed = True
            with self._memory.current():
                while self._idle:
                    self._idle.pop().close()
                self._engine.close()
        finally:
            for _ in range(self.threads):
                self._turn.release()

    def _call(self, images: npt.NDArray[Any], work: Callable[[Lane, npt.NDArray[Any]], Result]) -> Result:
        """What `work` makes of the images in a lane of their shape."""
        with self._turn, self._memory.current():
            lane = self._take(tuple(images.shape))
            try:
                result = work(lane, images)
            except BaseException:
                self._drop(lane)
                raise
            self._give(lane)
            return result

    def _take(self, shape: Shape) -> Lane:
        with self._lock:
            if self._closed:
                raise RuntimeError("the session is closed")
            for lane in reversed(self._idle):
                if lane.shape == shape:
                    self._idle.remove(lane)
                    return lane
            oldest = self._idle.pop(0) if len(self._idle) >= self.threads * SHAPES else None
        if oldest is not None:
            oldest.close()
        return Lane(self._engine, self._memory, shape)

    def _give(self, lane: Lane) -> None:
        with self._lock:
            self._idle.append(lane)

    @staticmethod
    def _drop(lane: Lane) -> None:
        """Close a lane whose GPU work failed; what fails again while closing adds nothing."""
        try:
            lane.close()
        except Exception:
            return
