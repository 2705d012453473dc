"""A trained module becomes files: ExportedProgram and two ONNX twins, all under the contract of an engine."""

from __future__ import annotations

import hashlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import NamedTuple

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from afdcd.errors import UserError
from deploy import graph
from deploy.archive import save_program
from deploy.bundle import CLASS_MAP, LOGITS, PROGRAM, Contract, Range, words
from deploy.rewrite import Exportable

_CHATTY = ("torch.onnx", "torch.export", "torch._export", "onnxscript", "onnx_ir")
_LIMIT = 2**31
"""Bytes that fit into one protobuf file."""


class Deployable(nn.Module):
    """A segmentation network under the contract: uint8 (B, H, W, 3) in, (class map, logits) at that size out.

    The network maps (B, 3, H, W) in 0..255 to an output with `.logits` (B, K, h, w) and normalises itself.
    The cast comes before the transpose: TensorRT's parser refuses to transpose uint8.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class map (B, H, W) uint8 and logits (B, K, H, W) of images (B, H, W, 3) uint8."""
        pixels = images.to(torch.float32).permute(0, 3, 1, 2)
        logits = self.network(pixels).logits
        size = (images.shape[1], images.shape[2])
        upsampled = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return upsampled.argmax(dim=1).to(torch.uint8), upsampled


class Exported(NamedTuple):
    """The content of an exported network's files, and the contract that names their hashes."""

    files: dict[str, bytes]
    contract: Contract


def export(network: nn.Module, contract: Contract) -> Exported:
    """Export `network` (in eval mode, without training-only parts) for the batches and sizes of the contract.

    The same weights give the same bytes. `contract.graphs` is filled here.

    Raises:
        UserError: the network still carries training-only parameters, cannot be exported at those sizes or
            that opset, has an operator that ONNX lacks (it is named), or is too large for one ONNX file.
    """
    if len(contract.classes) > 255:
        raise UserError(
            f"{len(contract.classes)} classes do not fit into a uint8 class map; 255 is the limit"
        )
    program = _trace(Deployable(network).eval(), contract)
    _check_parameters(program, contract)
    both = _to_onnx(program, contract)
    outputs = {value.name: value for value in both.graph.output}
    twins = {
        CLASS_MAP: graph.with_output(both, outputs[contract.output.name]),
        LOGITS: graph.with_output(both, outputs[contract.logits]),
    }
    for twin in twins.values():
        graph.check(twin, wanted_opset=contract.opset)
    files = {name: graph.to_bytes(twin) for name, twin in twins.items()}
    files[PROGRAM] = save_program(program)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    return Exported(files, contract.model_copy(update={"graphs": hashes}))


def _trace(module: Deployable, contract: Contract) -> ExportedProgram:
    height, width = contract.geometry.size
    limits = dimensions(contract)
    # A batch of 2 as example, so that nothing can be specialised to 1.
    batch = 2 if isinstance(limits["batch"], Range) else limits["batch"]
    example = torch.zeros(batch, height, width, 3, dtype=torch.uint8)
    dynamic = {
        axis: Dim(name, min=None if limit.min == 1 else limit.min, max=limit.max)
        for axis, (name, limit) in enumerate(limits.items())
        if isinstance(limit, Range)
    }
    try:
        with _quiet(), torch.no_grad(), Exportable():
            return torch.export.export(module, (example,), dynamic_shapes=(dynamic,))
    except Exception as error:
        sizes = " x ".join(words(limit) for limit in limits.values())
        raise UserError(
            f"torch.export cannot trace {contract.model} for inputs of {sizes} x 3 ({_reason(error)}); "
            "fix the network, or set deploy.export.dynamic: null where it depends on one size"
        ) from error


def dimensions(contract: Contract) -> dict[str, int | Range]:
    """Batch, height and width of the input; a range of a single length is that length."""
    given = contract.input
    limits = {"batch": given.batch, "height": given.height, "width": given.width}
    return {
        name: limit.min if isinstance(limit, Range) and limit.min == limit.max else limit
        for name, limit in limits.items()
    }


def _reason(error: BaseException) -> str:
    """The first telling line of an exporter's page."""
    lines = [re.sub(r"\x1b\[\d+m", "", line).strip() for line in str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__).rstrip(".")


def _check_parameters(program: ExportedProgram, contract: Contract) -> None:
    """Refuse what training needed and inference does not: every parameter must reach an output."""
    parameters = dict(program.named_parameters())
    names = program.graph_signature.inputs_to_parameters
    used = {names[node.name] for node in program.graph.nodes if node.name in names and node.users}
    idle = sorted(set(parameters) - used)
    if idle:
        raise UserError(
            f"{contract.model} still carries {len(idle)} parameters that no output needs ({idle[0]}, ...); "
            "export the network without its auxiliary head and adapters"
        )
    count = sum(parameter.numel() for parameter in parameters.values())
    if count != contract.parameters:
        raise UserError(
            f"{contract.model}: the exported program has {count} parameters, "
            f"the bare network {contract.parameters}"
        )


def _to_onnx(program: ExportedProgram, contract: Contract) -> onnx.ModelProto:
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    if size >= _LIMIT:
        raise UserError(f"{contract.model} has {size} bytes of weights; one ONNX file holds less than 2 GB")
    model = graph.canonical(translate(program, contract).model_proto)
    limits = dimensions(contract)
    for value in (*model.graph.input, *model.graph.output):
        graph.name_dimensions(value, limits, channels_first=value.name == contract.logits)
    graph.note(
        model, {name: words(limit) for name, limit in limits.items() if name != "batch" and _free(limit)}
    )
    return model


def _free(limit: int | Range) -> bool:
    return isinstance(limit, Range)


def translate(program: ExportedProgram, contract: Contract) -> torch.onnx.ONNXProgram:
    """The program in ONNX, and the decomposed program whose nodes gave the ONNX tensors their names.

    Raises:
        UserError: an operator of the program has no form in ONNX; it and its node are named.
    """
    try:
        with _quiet():
            result = torch.onnx.export(
                program,
                dynamo=True,
                external_data=False,
                opset_version=contract.opset,
                optimize=True,
                verbose=False,
                input_names=[contract.input.name],
                output_names=[contract.output.name, contract.logits],
            )
    except Exception as error:
        raise UserError(f"{contract.model} cannot become ONNX: {_culprit(error)}") from error
    if result is None:
        raise UserError(f"torch.onnx.export gave no program for {contract.model}")
    return result


def _culprit(error: BaseException) -> str:
    """Node and operator at which the ONNX exporter gave up, from the chain of its errors."""
    texts = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__
    text = "\n".join(texts)
    node = re.search(r"node %(\w+)|\[node=%?(\w+)", text)
    operator = re.search(r"OpOverload\(op='([^']+)', overload='([^']+)'\)", text)
    if operator is None:
        return f"{_reason(error)}; look for an operator that ONNX lacks"
    name = next((group for group in (node.groups() if node else ()) if group), "unknown")
    return (
        f"its node {name} is {operator[1]}.{operator[2]}, which has no form in ONNX; "
        "write that step with other operators"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop the exporters' notes and progress lines, which say nothing to a user; errors still raise."""
    levels = {name: logging.getLogger(name).level for name in _CHATTY}
    sink = io.StringIO()
    try:
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(sink), redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
