"""TensorRT and TensorRT-RTX on an NVIDIA GPU: plans built on this device, run by a pool of contexts."""

from __future__ import annotations

from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from afdcd.errors import UserError
from deploy.bundle import CLASS_MAP, LOGITS, Contract
from deploy.config import Precision
from deploy.sessions import Reader
from deploy.tensorrt.bindings import load_for_gpu
from deploy.tensorrt.engine import Engine
from deploy.tensorrt.memory import DeviceMemory, open_memory
from deploy.tensorrt.pool import Pool
from deploy.tensorrt.profiles import narrowed, span
from deploy.tensorrt.store import read_plan


class TensorRtSession:
    """Runs class_map.plan; opens logits.plan only when logits are asked for.

    May be called by several threads; `threads` of them run at once, each in a context of its own.
    """

    package: ClassVar[str] = "tensorrt"

    def __init__(
        self,
        contract: Contract,
        read: Reader,
        *,
        threads: int,
        precision: Precision = "fp32",
        memory: DeviceMemory | None = None,
    ) -> None:
        """Open the plan of the class map.

        Raises:
            UserError: no driver, no library, or the plan is not for this machine.
        """
        self._bindings = load_for_gpu(self.package)
        self._memory = memory or open_memory()
        self._contract = narrowed(contract, span(contract))
        self._source = contract
        self._read = read
        self._threads = threads
        self._precision = precision
        self._pools: dict[str, Pool] = {}
        self._closed = False
        self._pool(CLASS_MAP)

    @property
    def contract(self) -> Contract:
        """What the engine takes and gives; the batch has the limit that the plan was made for."""
        return self._contract

    def infer(self, images: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Class map (B, H, W) uint8 of images (B, H, W, 3) uint8."""
        return np.asarray(self._pool(CLASS_MAP).run(self._contract.admit(images)), dtype=np.uint8)

    def logits(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Logits (B, K, H, W) at the input size."""
        return np.asarray(self._pool(LOGITS).run(self._contract.admit(images)), dtype=np.float32)

    def compute_ms(self, images: npt.NDArray[Any]) -> float:
        """Milliseconds of the GPU for the class map's engine alone, without copies, by events of the GPU."""
        return self._pool(CLASS_MAP).compute_ms(self._contract.admit(images))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()

    def _pool(self, graph: str) -> Pool:
        if self._closed:
            raise RuntimeError("the session is closed")
        if graph not in self._pools:
            with self._memory.current():
                plan = read_plan(
                    self._read,
                    graph,
                    bindings=self._bindings,
                    gpu=self._memory.gpu(),
                    contract=self._source,
                    precision=self._precision,
                )
                engine = Engine(self._bindings, plan, f"{self._contract.model}'s {graph}")
                self._require_names(engine, graph)
            self._pools[graph] = Pool(engine, self._memory, threads=self._threads)
        return self._pools[graph]

    def _require_names(self, engine: Engine, graph: str) -> None:
        output = self._contract.output.name if graph == CLASS_MAP else self._contract.logits
        found = (engine.inputs[0], engine.outputs[0])
        if found != (self._contract.input.name, output):
            raise UserError(
                f"{engine.name} takes and gives {found}, its contract promises "
                f"{(self._contract.input.name, output)}; export it again"
            )


class TensorRtRtxSession(TensorRtSession):
    """The same through TensorRT-RTX, which compiles its kernels for the GPU when the engine first runs."""

    package: ClassVar[str] = "tensorrt_rtx"
