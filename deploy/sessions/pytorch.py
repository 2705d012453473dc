"""PyTorch from the ExportedProgram: the reference that engines are held against, and its compiled form.

Never released: a .pt2 needs the whole of PyTorch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from afdcd.errors import UserError
from deploy.archive import load_program
from deploy.bundle import PROGRAM, Contract
from deploy.config import Precision
from deploy.sessions import Reader
from deploy.sessions.capability import no_compiler


class PyTorchSession:
    """Runs reference.pt2 eagerly on the CPU; the process's thread count is put back on exit."""

    def __init__(
        self, contract: Contract, read: Reader, *, threads: int, precision: Precision = "fp32"
    ) -> None:
        self._contract = contract
        module = load_program(read(PROGRAM)).module()
        self._call: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None
        self._call = self.prepared(module, threads)
        self._timed: torch.Size | None = None
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(threads)

    @staticmethod
    def prepared(module: torch.nn.Module, threads: int) -> Callable[[torch.Tensor], Any]:
        """What is called for each batch."""
        return module

    @property
    def contract(self) -> Contract:
        """What the engine takes and gives."""
        return self._contract

    def infer(self, images: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Class map (B, H, W) uint8 of images (B, H, W, 3) uint8."""
        return np.asarray(self._run(images)[0].numpy(), dtype=np.uint8)

    def logits(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Logits (B, K, H, W) at the input size."""
        return np.asarray(self._run(images)[1].numpy(), dtype=np.float32)

    def compute_ms(self, images: npt.NDArray[Any]) -> float:
        """Milliseconds of one call of the program on images that are a tensor already."""
        batch = self._batch(images)
        if batch.shape != self._timed:
            self._forward(batch)
            self._timed = batch.shape
        start = time.perf_counter_ns()
        self._forward(batch)
        return (time.perf_counter_ns() - start) / 1e6

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call = None
        torch.set_num_threads(self._threads_before)

    def _run(self, images: npt.NDArray[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        return self._forward(self._batch(images))

    def _batch(self, images: npt.NDArray[Any]) -> torch.Tensor:
        """The images as a tensor on their own memory, or on a copy where that may not be written to."""
        return torch.from_numpy(np.require(self._contract.admit(images), requirements="W"))

    def _forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self._call is None:
            raise RuntimeError("the session is closed")
        with torch.inference_mode():
            return self._call(batch)


class CompiledSession(PyTorchSession):
    """Runs the program through torch.compile, its weights frozen; the first call of a kind of shape compiles.

    A form for one shape first, then one for any batch. Compiled code is kept in torch's own cache folder.
    """

    def __init__(
        self, contract: Contract, read: Reader, *, threads: int, precision: Precision = "fp32"
    ) -> None:
        if reason := no_compiler():
            raise UserError(f"torch.compile {reason}")
        super().__init__(contract, read, threads=threads, precision=precision)

    @staticmethod
    def prepared(module: torch.nn.Module, threads: int) -> Callable[[torch.Tensor], Any]:
        """The module compiled as a whole, for that number of threads."""
        options: dict[str, Any] = {"freezing": True, "cpp.threads": threads}
        compiled: Callable[[torch.Tensor], Any] = torch.compile(module, fullgraph=True, options=options)
        return compiled

    def _forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        try:
            return super()._forward(batch)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"torch {torch.__version__} cannot compile {self._contract.model}: {reason}; "
                "take the backend pytorch"
            ) from error
