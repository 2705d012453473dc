"""PyTorch from the ExportedProgram: the reference that engines are held against, never released."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from deploy.archive import load_program
from deploy.bundle import PROGRAM, Contract
from deploy.config import Precision
from deploy.sessions import Reader


class PyTorchSession:
    """Runs reference.pt2 eagerly on the CPU; the process's thread count is put back on exit."""

    def __init__(
        self, contract: Contract, read: Reader, *, threads: int, precision: Precision = "fp32"
    ) -> None:
        self._contract = contract
        self._module: torch.nn.Module | None = load_program(read(PROGRAM)).module()
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(threads)

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._module = None
        torch.set_num_threads(self._threads_before)

    def _run(self, images: npt.NDArray[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        if self._module is None:
            raise RuntimeError("the session is closed")
        admitted = self._contract.admit(images)
        with torch.inference_mode():
            class_map, logits = self._module(torch.from_numpy(np.require(admitted, requirements="W")))
        return class_map, logits
