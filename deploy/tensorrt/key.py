"""What a plan is good for: one graph, one version of TensorRT, one kind of GPU, one set of flags."""

from __future__ import annotations

import hashlib
import platform

from pydantic import ValidationError

from afdcd.errors import UserError
from deploy.config import Config, Precision
from deploy.tensorrt.bindings import PACKAGES, Bindings
from deploy.tensorrt.memory import Gpu
from deploy.tensorrt.plan import flags
from deploy.tensorrt.profiles import Span

PLANS = "plans.json"
"""The keys of a bundle's plans, by file name."""

TIMING = "timing.cache"
"""TensorRT's measured kernel times: with them a rebuild on the same device picks the same kernels."""


class EngineKey(Config):
    """All that a plan depends on.

    Attributes:
        onnx_sha256: of the graph that it was built from.
        package: tensorrt or tensorrt_rtx.
        version: of it, in full.
        gpu: name of the device.
        compute_capability: of the device, `9.0`.
        system: kind and architecture, `Linux x86_64`.
        flags: builder flags by name.
        least: smallest input shape.
        usual: the shape that kernels were chosen for.
        most: largest input shape.
    """

    onnx_sha256: str
    package: str
    version: str
    gpu: str
    compute_capability: str
    system: str
    flags: dict[str, bool]
    least: tuple[int, ...]
    usual: tuple[int, ...]
    most: tuple[int, ...]

    @property
    def span(self) -> Span:
        """The input shapes."""
        return Span(self.least, self.usual, self.most)

    def differences(self, host: EngineKey) -> list[str]:
        """Why a plan of this key does not belong to `host`, in words; empty if it does."""
        title = PACKAGES[self.package].title if self.package in PACKAGES else self.package
        words = {
            "onnx_sha256": "built from another graph (SHA-256 {ours:.12}, here {theirs:.12})",
            "package": "built by {ours}, here is {theirs}",
            "version": title + " {ours}, here is {theirs}",
            "gpu": "built on {ours}, here is {theirs}",
            "compute_capability": "built for compute capability {ours}, here is {theirs}",
            "system": "built on {ours}, here is {theirs}",
            "flags": "built with flags {ours}, here {theirs} are asked for",
            "least": "made for shapes from {ours}, here from {theirs}",
            "usual": "tuned for the shape {ours}, here {theirs}",
            "most": "made for shapes to {ours}, here to {theirs}",
        }
        pairs = {field: (getattr(self, field), getattr(host, field)) for field in words}
        return [
            words[field].format(ours=ours, theirs=theirs)
            for field, (ours, theirs) in pairs.items()
            if ours != theirs
        ]


class PlanKeys(Config):
    """plans.json: the key of every plan of a bundle, by file name."""

    plans: dict[str, EngineKey]


def host_key(content: bytes, bindings: Bindings, gpu: Gpu, shapes: Span, precision: Precision) -> EngineKey:
    """The key that a plan of this graph would get on this machine."""
    return EngineKey(
        onnx_sha256=hashlib.sha256(content).hexdigest(),
        package=bindings.package,
        version=bindings.version,
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        system=f"{platform.system()} {platform.machine()}",
        flags=flags(precision),
        least=shapes.least,
        usual=shapes.usual,
        most=shapes.most,
    )


def read_keys(content: bytes) -> PlanKeys:
    """The content of plans.json.

    Raises:
        UserError: it is of another version.
    """
    try:
        return PlanKeys.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{PLANS} is of another version ({place}: {first['msg']}); build the bundle again"
        ) from error
