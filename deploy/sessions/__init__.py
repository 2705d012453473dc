"""Engines behind one protocol; a table leads from a backend's name to the class that runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, cast

import numpy as np
import numpy.typing as npt

from afdcd.errors import UserError
from afdcd.plugins import resolve
from deploy.bundle import Contract, Manifest, checked_bytes, read_contract, read_manifest
from deploy.config import Precision

BACKENDS: dict[str, str] = {
    "onnxruntime": "deploy.sessions.onnxruntime:OnnxRuntimeSession",
    "onnxruntime_cuda": "deploy.sessions.onnxruntime:CudaSession",
    "onnxruntime_tensorrt": "deploy.sessions.onnxruntime:TensorRtSession",
    "openvino": "deploy.sessions.openvino:OpenVinoSession",
    "pytorch": "deploy.sessions.pytorch:PyTorchSession",
    "pytorch_compiled": "deploy.sessions.pytorch:CompiledSession",
    "tensorrt": "deploy.sessions.tensorrt:TensorRtSession",
    "tensorrt_rtx": "deploy.sessions.tensorrt:TensorRtRtxSession",
}

Reader = Callable[[str], bytes]
"""Gives the content of one of an engine's files by name, already checked."""


class Session(Protocol):
    """An engine ready to run; a context manager that frees it.

    Backends are built as `Backend(contract, read, threads=n, precision=p)`. Most find the precision typed in
    the graph and have no use for `p`; one that decides it when it opens the graph (OpenVINO) obeys it.
    """

    @property
    def contract(self) -> Contract:
        """What the engine takes and gives."""
        ...

    def infer(self, images: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Class map (B, H, W) uint8 of images (B, H, W, 3) uint8.

        Raises:
            UserError: the images are not what the contract says.
        """
        ...

    def logits(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Logits (B, K, H, W) at the input size, from the twin that is opened when first asked for.

        Raises:
            UserError: the images are not what the contract says.
        """
        ...

    def compute_ms(self, images: npt.NDArray[Any]) -> float | None:
        """Milliseconds of one run of the class map's engine alone, None where it cannot be timed alone.

        The images lie where the engine reads them before its clock starts, and nothing is copied out. An
        engine that is new to their shape runs once before.

        Raises:
            UserError: the images are not what the contract says.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_session(bundle: Path, *, threads: int) -> Session:
    """Open the engine of a bundle on `threads` CPU threads; each file is checked before it is loaded.

    Raises:
        UserError: a file is missing, altered or cannot be loaded, or the backend is unknown.
    """
    manifest = read_manifest(bundle)
    return open_backend(
        manifest.backend,
        manifest.contract,
        bundle_reader(bundle, manifest),
        threads=threads,
        precision=manifest.precision,
    )


def open_reference(exported: Path, *, threads: int) -> Session:
    """Open the PyTorch reference of an exported network (reference.pt2 beside its contract.json).

    Raises:
        UserError: a file is missing, altered, or asks for pickle.
    """
    contract = read_contract(exported)
    return open_backend(
        "pytorch",
        contract,
        lambda name: checked_bytes(exported / name, contract.graphs[name]),
        threads=threads,
    )


def open_backend(
    backend: str, contract: Contract, read: Reader, *, threads: int, precision: Precision = "fp32"
) -> Session:
    """Build a session from its parts.

    Raises:
        UserError: the backend is unknown (the nearest name is proposed) or cannot load the file.
    """
    kind = resolve(BACKENDS, backend, "backend")
    return cast(Session, kind(contract, read, threads=threads, precision=precision))


def bundle_reader(bundle: Path, manifest: Manifest) -> Reader:
    """A reader that hands out only files that are what the manifest says."""

    def read(name: str) -> bytes:
        if name not in manifest.files:
            raise UserError(f"{bundle} was built without {name}; build it again from its exported network")
        return checked_bytes(bundle / name, manifest.files[name].sha256)

    return read
