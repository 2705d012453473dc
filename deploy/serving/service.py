"""What both protocols share: an inference from request to answer, and what models say of themselves."""

from __future__ import annotations

import asyncio
import time
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Any, NamedTuple

from deploy.bundle import Contract, Pixels, Range
from deploy.serving import pictures
from deploy.serving.engine import Answer
from deploy.serving.models import Models, Version
from deploy.serving.options import Limits
from deploy.serving.refusal import Refusal

NAME = "afdcd"
EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]


class Served(NamedTuple):
    """An answer and the version that gave it.

    Attributes:
        maps: (B, H, W) class numbers, for an encoded image at its own size.
        decoded: seconds that decoding and fitting an encoded image took; None where there was none.
    """

    version: Version
    maps: Pixels
    timing: Answer
    decoded: float | None


class Service:
    """The models under the limits of a request.

    Attributes:
        ready: False from the moment the server is told to stop.
    """

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models, self.limits = models, limits
        self.ready = True

    def seconds(self, own: float | None) -> float:
        """The time a request has: its own, never more than the server's."""
        return self.limits.seconds if own is None else min(own, self.limits.seconds)

    async def infer(self, name: str, number: str, images: Pixels | bytes, seconds: float) -> Served:
        """Class maps of images, or of one encoded image.

        Raises:
            Refusal: of any kind; it is counted.
        """
        start = time.perf_counter()
        version, decoded = self.models.get(name, number), None
        try:
            if isinstance(images, bytes):
                maps, timing, version, decoded = await self._picture(name, number, images, seconds)
            else:
                timing = await version.engine.infer(images, seconds)
                maps = timing.maps
        except Refusal as refusal:
            version.tally.failure(refusal.outcome, time.perf_counter() - start)
            raise
        except asyncio.CancelledError:
            version.tally.failure("gone", time.perf_counter() - start)
            raise
        total = time.perf_counter() - start
        # Counted in the loop's next turn: the answer is on its way by then and need not wait for it.
        counts = (len(maps), timing.queued, timing.computed, total, timing.batch)
        asyncio.get_running_loop().call_soon(version.tally.success, *counts)
        return Served(version, maps, timing, decoded)

    async def _picture(
        self, name: str, number: str, content: bytes, seconds: float
    ) -> tuple[Pixels, Answer, Version, float]:
        contract = self.models.get(name, number).contract
        start = time.perf_counter()
        fitted = await asyncio.to_thread(pictures.decode, content, contract, pixels=self.limits.pixels)
        decoded = time.perf_counter() - start
        # While it was decoded, another version may have come.
        version = self.models.get(name, number)
        timing = await version.engine.infer(fitted.image[None], seconds)
        maps = await asyncio.to_thread(pictures.mask, timing.maps[0], fitted)
        return maps[None], timing, version, decoded


def server_metadata() -> dict[str, Any]:
    """As the protocol gives it."""
    try:
        version = installed("afdcd")
    except PackageNotFoundError:
        version = "source"  # A container may hold the folders alone.
    return {"name": NAME, "version": version, "extensions": EXTENSIONS}


def model_metadata(versions: tuple[Version, ...], version: Version) -> dict[str, Any]:
    """As the protocol gives it; a free dimension is -1."""
    contract = version.contract
    batch, height, width = _shape(contract)
    return {
        "name": version.model,
        "versions": sorted((known.number for known in versions), key=int),
        "platform": f"{version.manifest.backend}_{version.manifest.precision}",
        "inputs": [{"name": contract.input.name, "datatype": "UINT8", "shape": [batch, height, width, 3]}],
        "outputs": [{"name": contract.output.name, "datatype": "UINT8", "shape": [batch, height, width]}],
    }


def model_config(version: Version) -> dict[str, Any]:
    """In the form of Triton's model configuration; what it has no field for stands in `parameters`."""
    contract = version.contract
    most = contract.input.batch.max or 0
    # Where the batch is unbounded, Triton counts it among the dimensions.
    sides = list(_shape(contract))[1 if most else 0 :]
    return {
        "name": version.model,
        "backend": version.manifest.backend,
        "max_batch_size": most,
        "input": [{"name": contract.input.name, "data_type": "TYPE_UINT8", "dims": [*sides, 3]}],
        "output": [{"name": contract.output.name, "data_type": "TYPE_UINT8", "dims": sides}],
        "parameters": {
            "classes": {"string_value": ",".join(contract.classes)},
            "target": {"string_value": version.manifest.target},
            "precision": {"string_value": version.manifest.precision},
            "parameters": {"string_value": str(contract.parameters)},
        },
    }


def labels(version: Version) -> dict[str, Any]:
    """Class names and colours in the order of the class numbers."""
    contract = version.contract
    return {
        "classes": contract.classes,
        "palette": contract.palette,
        "ignore_index": contract.ignore_index,
        "input_size": contract.geometry.size,
        "fit": contract.geometry.fit,
        "target": version.manifest.target,
        "precision": version.manifest.precision,
    }


def _shape(contract: Contract) -> tuple[int, int, int]:
    def side(limit: int | Range) -> int:
        return limit if isinstance(limit, int) else limit.min if limit.min == limit.max else -1

    taken = contract.input
    return side(taken.batch), side(taken.height), side(taken.width)
