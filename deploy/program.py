"""Anyone's .pt2 as a network under the contract: what it takes is read from the program itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from afdcd.colours import voc_colour
from afdcd.config import Normalisation
from afdcd.errors import UserError
from deploy.archive import load_program
from deploy.bundle import ClassMapOutput, Contract, Geometry, ImageInput, Range


class Wanted(NamedTuple):
    """What a .pt2 does not say.

    Attributes:
        name: of the model.
        classes: names in the order of the class numbers; empty numbers them.
        normalisation: written before the network; None where it takes values of 0..255 itself.
        size: (height, width) that images are brought to; None takes that of the program, which is then fixed.
        fit: stretch or letterbox.
        opset: of the ONNX files.
    """

    name: str
    classes: Sequence[str]
    normalisation: Normalisation | None
    size: tuple[int, int] | None
    fit: Any
    opset: int


class Logits(NamedTuple):
    """What `deploy.export` expects of a network."""

    logits: Tensor


class Normalised(nn.Module):
    """A program of (B, 3, H, W) -> logits (B, K, h, w), fed with values of 0..255."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, normalisation: Normalisation | None) -> None:
        super().__init__()
        self.network = network
        self.normalises = normalisation is not None
        self.flips = normalisation is not None and normalisation.order == "bgr"
        for name in ("mean", "std"):
            values = getattr(normalisation, name) if normalisation else (0.0, 0.0, 0.0)
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> Self:
        """Nothing: a program keeps the mode that it was traced in, and refuses to be asked."""
        return self

    def forward(self, pixels: Tensor) -> Logits:
        """Logits of images (B, 3, H, W), RGB of 0..255."""
        images = pixels.flip(1) if self.flips else pixels
        if self.normalises:
            images = (images - self.mean) / self.std
        return Logits(_logits(self.network(images)))


def _logits(result: Any) -> Tensor:
    """The first four-dimensional tensor: networks give it alone, in a tuple, or as `out` beside `aux`."""
    if isinstance(result, dict):
        result = result.get("out", result.get("logits", next(iter(result.values()), None)))
    elif isinstance(result, (tuple, list)):
        result = result[0]
    if not isinstance(result, Tensor) or result.dim() != 4:
        raise UserError("the program's first output is no logits (B, K, h, w); export the bare network")
    return result


def read_network(path: Path, wanted: Wanted) -> tuple[nn.Module, Contract]:
    """The network of a .pt2, and its contract without hashes of graphs.

    Raises:
        UserError: the file is missing or asks for pickle, was traced in training mode, its input is no
            (B, 3, H, W) in float32, its output no logits, or the names of classes are another number than
            its channels.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a .pt2 file") from error
    try:
        program = load_program(content)
    except UserError as error:
        raise UserError(
            f"{path}: {error} (deploy.archive.save_program writes a .pt2 without pickle)"
        ) from error
    _require_eval(program, path)
    batch, height, width = _sides(program, path)
    size = wanted.size or _fixed(height, width, path)
    network = Normalised(program.module(check_guards=False), wanted.normalisation)
    channels = _channels(network, batch, size, path)
    classes = list(wanted.classes) or [f"class_{number}" for number in range(channels)]
    if len(classes) != channels:
        raise UserError(f"{path} tells {channels} classes apart, --classes names {len(classes)}")
    neutral = Normalisation(order="rgb", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    contract = Contract(
        model=wanted.name,
        input=ImageInput(
            name="images", dtype="uint8", layout="NHWC", batch=batch, height=height, width=width
        ),
        output=ClassMapOutput(name="class_map", dtype="uint8"),
        logits="logits",
        classes=classes,
        palette=[voc_colour(number) for number in range(channels)],
        ignore_index=255,
        normalisation=wanted.normalisation or neutral,
        geometry=Geometry(size=size, fit=wanted.fit),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        opset=wanted.opset,
        weights_sha256=hashlib.sha256(content).hexdigest(),
        graphs={},
    )
    return network, contract


def _require_eval(program: ExportedProgram, path: Path) -> None:
    """Refuse dropout that drops, and batch normalisation by the batch although it has running statistics.

    The engine would be held against the same program, so that nothing else notices.
    """
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            continue
        given = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False))
        given |= node.kwargs
        statistics = given.get("running_mean", True) is not None
        if statistics and (given.get("train") is True or given.get("training") is True):
            raise UserError(
                f"{path} was traced in training mode: {schema.name.removeprefix('aten::')} ({node.name}); "
                "call eval() on the network before torch.export.export"
            )


def _sides(program: ExportedProgram, path: Path) -> tuple[Range, int | Range, int | Range]:
    """Batch, height and width that the program was traced for."""
    names = set(program.graph_signature.user_inputs)
    given = [
        node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names
    ]
    if (
        len(given) != 1
        or not isinstance(given[0], Tensor)
        or given[0].dim() != 4
        or given[0].dtype != torch.float32
        or given[0].shape[1] != 3
    ):
        found = ", ".join(
            f"{value.dtype} {tuple(value.shape)}" for value in given if isinstance(value, Tensor)
        )
        raise UserError(
            f"{path} takes {found or 'no tensor'}; "
            "`export` needs a network of one input (B, 3, H, W) in float32"
        )
    batch, _, height, width = (_side(program, length, path) for length in given[0].shape)
    return Range(min=batch, max=batch) if isinstance(batch, int) else batch, height, width


def _side(program: ExportedProgram, length: Any, path: Path) -> int | Range:
    if isinstance(length, int):
        return length
    expression = length.node.expr
    symbols = sorted(expression.free_symbols, key=str)
    multiple, rest = expression.as_coeff_Mul()
    if len(symbols) != 1 or rest != symbols[0]:
        raise UserError(f"{path}: its length {expression} is no multiple of one number; trace it with Dim")
    limits, step = program.range_constraints[symbols[0]], int(multiple)
    lower, upper = limits.lower, limits.upper
    most = int(upper) * step if bool(upper < 2**31) else None
    return Range(min=max(1, int(lower)) * step, max=most, multiple=step)


def _fixed(height: int | Range, width: int | Range, path: Path) -> tuple[int, int]:
    if isinstance(height, Range) or isinstance(width, Range):
        raise UserError(f"{path} takes many sizes; say with --size which one images are brought to")
    return height, width


def _channels(network: nn.Module, batch: Range, size: tuple[int, int], path: Path) -> int:
    try:
        with torch.no_grad():
            return int(network(torch.zeros(batch.min, 3, *size)).logits.shape[1])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{path} does not run at {size[0]}x{size[1]}: {reason}") from error
