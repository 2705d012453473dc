"""An engine bundle: a folder with the engine's files and a manifest.json that says all about them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from afdcd.config import Normalisation
from afdcd.errors import UserError
from afdcd.files import json_text, read_json, sha256, write_json
from deploy.config import Config, Count, Size

MANIFEST = "manifest.json"
CONTRACT = "contract.json"
CLASS_MAP = "class_map.onnx"
LOGITS = "logits.onnx"
PROGRAM = "reference.pt2"
PARITY = "parity.json"
QUANTISATION = "quantize.json"

Pixels = npt.NDArray[np.uint8]
Model = TypeVar("Model", bound=Config)


def ir_names(graph: str) -> tuple[str, str]:
    """The two files that hold a graph in OpenVINO's own format: class_map.onnx -> class_map.xml and .bin."""
    stem = graph.removesuffix(".onnx")
    return f"{stem}.xml", f"{stem}.bin"


def plan_name(graph: str) -> str:
    """The file of a graph's TensorRT plan: class_map.onnx -> class_map.plan."""
    return f"{graph.removesuffix('.onnx')}.plan"


class Range(Config):
    """A dynamic dimension.

    Attributes:
        min: the shortest length.
        max: the longest; None where nothing but memory limits it.
        multiple: every length is one of this; files of before it existed mean 1.
    """

    min: Count
    max: Count | None
    multiple: Count = 1


class ImageInput(Config):
    """What goes in: RGB images of 0..255 as a camera gives them."""

    name: str
    dtype: Literal["uint8"]
    layout: Literal["NHWC"]
    batch: Range
    height: Count | Range
    width: Count | Range


class ClassMapOutput(Config):
    """What comes out: the class number of each pixel, (B, H, W) at the input size."""

    name: str
    dtype: Literal["uint8"]


class Geometry(Config):
    """How any image is brought to the input size (`afdcd.geometry`)."""

    size: Size
    fit: Literal["stretch", "letterbox"]


class Contract(Config):
    """What an engine takes and gives; normalisation, upsampling and argmax are inside the graph.

    Attributes:
        parameters: those of the bare network, without auxiliary head and adapters.
        normalisation: already in the graph; recorded for readers.
        weights_sha256: of the trained weights that all graphs hold.
        graphs: SHA-256 of each exported graph, so that an engine can be traced to its source.
    """

    model: str
    input: ImageInput
    output: ClassMapOutput
    logits: str
    classes: list[str]
    palette: list[tuple[int, int, int]]
    ignore_index: int
    normalisation: Normalisation
    geometry: Geometry
    parameters: Count
    opset: Count
    weights_sha256: str
    graphs: dict[str, str]

    def admit(self, images: npt.NDArray[Any]) -> Pixels:
        """The images as one contiguous block, (B, H, W, 3) uint8, if the engine takes them.

        Raises:
            UserError: dtype, rank or size differ; the message gives what was expected and what came.
        """
        if images.dtype != np.uint8:
            raise UserError(
                f"{self.model} takes uint8 images of 0..255, got {images.dtype}; pass them unscaled"
            )
        batch = "B" if self.input.batch.max is None else words(self.input.batch)
        expected = f"({batch}, {words(self.input.height)}, {words(self.input.width)}, 3)"
        limits: list[int | Range] = [self.input.batch, self.input.height, self.input.width, 3]
        if images.ndim != 4 or not all(map(_fits, images.shape, limits)):
            sized = images.ndim == 4 and all(map(_fits, images.shape[1:], limits[1:]))
            remedy = f"give {batch} a call" if sized else "afdcd.geometry.fit brings an image to that size"
            raise UserError(
                f"{self.model} takes images of shape {expected}, got {tuple(images.shape)}; {remedy}"
            )
        return np.ascontiguousarray(images)


class FileRecord(Config):
    """One file of a bundle."""

    sha256: str
    bytes: int


class Manifest(Config):
    """All that serving, reporting and releasing need to know about an engine.

    Attributes:
        quantisation: what `deploy.quantize` did and chose.
        parity: the exported graph against PyTorch.
        hardware: the machine that built the engine.
        versions: of the packages that made and load it.
        winograd: convolutions of the exported graph that this engine computes by Winograd's algorithm.
        measured: accuracy, latency and provenance; None until `release` fills it.
    """

    format: Literal[1]
    model: str
    target: str
    backend: str
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    threads: Count
    contract: Contract
    files: dict[str, FileRecord] = Field(min_length=1)
    quantisation: dict[str, Any]
    parity: dict[str, Any]
    hardware: dict[str, Any]
    versions: dict[str, str]
    winograd: list[str] = []
    measured: dict[str, Any] | None

    def size(self) -> int:
        """Bytes of the file that ships: the class-map engine, without its logits twin."""
        plan = [name for name in (plan_name(CLASS_MAP),) if name in self.files]
        shipped = plan or [name for name in (CLASS_MAP, *ir_names(CLASS_MAP)) if name in self.files]
        return sum(self.files[name].bytes for name in shipped or [PROGRAM])

    def form(self) -> str:
        """What to add for people where convolutions are computed otherwise than in the exported graph."""
        count = len(self.winograd)
        return f", {count} convolution{'s' * (count > 1)} by Winograd's algorithm" if count else ""


def words(limit: int | Range) -> str:
    """A dimension for people: `96`, `1..`, `64..512 in steps of 8`."""
    if isinstance(limit, int) or limit.min == limit.max:
        return str(limit if isinstance(limit, int) else limit.min)
    steps = "" if limit.multiple == 1 else f" in steps of {limit.multiple}"
    return f"{limit.min}..{limit.max or ''}{steps}"


def _fits(length: int, limit: int | Range) -> bool:
    if isinstance(limit, int):
        return length == limit
    inside = limit.min <= length and (limit.max is None or length <= limit.max)
    return inside and length % limit.multiple == 0


def describe(folder: Path, names: Iterable[str]) -> dict[str, FileRecord]:
    """Hash and size of the named files of `folder`."""
    return {
        name: FileRecord(sha256=sha256(folder / name), bytes=(folder / name).stat().st_size)
        for name in sorted(names)
    }


def write_model(path: Path, value: Config) -> None:
    """Write a typed record as JSON."""
    write_json(path, value.model_dump(mode="json"))


def manifest_sha256(manifest: Manifest) -> str:
    """SHA-256 of the file that `write_model` makes of a manifest."""
    return hashlib.sha256(json_text(manifest.model_dump(mode="json")).encode()).hexdigest()


def _read_model(path: Path, kind: type[Model]) -> Model:
    if path.parent.is_file():
        raise UserError(
            f"{path.parent} is a file, and a folder with {path.name} is needed; `python -m deploy export` "
            "makes one of a .pt2 or .onnx, `build` an engine bundle of that"
        )
    if not path.exists():
        maker = "build" if path.name == MANIFEST else "export"
        raise UserError(
            f"{path} is missing; `python -m deploy {maker}` writes such a folder, in a project dvc repro does"
        )
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{path} is no {kind.__name__.lower()} of this version ({place}: {first['msg']}); run dvc repro"
        ) from error


def read_contract(folder: Path) -> Contract:
    """The contract of an exported or typed graph.

    Raises:
        UserError: contract.json is missing or of another version.
    """
    return _read_model(folder / CONTRACT, Contract)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle; its files are not looked at.

    Raises:
        UserError: manifest.json is missing or of another version.
    """
    return _read_model(folder / MANIFEST, Manifest)


def checked_bytes(path: Path, expected: str) -> bytes:
    """The content of `path`, read once, so that what was checked is what gets loaded.

    Raises:
        UserError: the file is missing or its SHA-256 is not `expected`.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing, though its manifest lists it; build the bundle again") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise UserError(
            f"{path} is not the file that its manifest describes (SHA-256 differs); build it again"
        )
    return content


def verify(folder: Path) -> Manifest:
    """Check every file of a bundle against its manifest and return the manifest.

    Raises:
        UserError: a file is missing or altered; the message names it.
    """
    manifest = read_manifest(folder)
    for name, record in manifest.files.items():
        checked_bytes(folder / name, record.sha256)
    return manifest
