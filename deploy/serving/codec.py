"""Bodies of the protocol over HTTP: a JSON header, and tensors behind it as raw bytes or inside as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deploy.bundle import Contract, Pixels
from deploy.serving.refusal import Refusal

HEADER_LENGTH = "Inference-Header-Content-Length"
_compact = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class Asked(NamedTuple):
    """An inference request.

    Attributes:
        id: the client's own, given back.
        images: (B, H, W, 3) uint8, a view of the body; or the bytes of one encoded image.
        binary: whether the answer's tensor goes behind its header.
        seconds: the request's own time limit.
    """

    id: str
    images: Pixels | bytes
    binary: bool
    seconds: float | None


def parse(body: bytes, header_length: str | None, contract: Contract) -> Asked:
    """A request for a model of this contract.

    Raises:
        Refusal: it is not of the protocol, or not for this model.
    """
    length = len(body) if header_length is None else _whole(header_length, HEADER_LENGTH)
    if length > len(body):
        raise Refusal(f"{HEADER_LENGTH} is {length}, the body has only {len(body)} bytes")
    try:
        header = json.loads(body[:length])
    except (ValueError, RecursionError) as error:
        raise Refusal(f"the request's header is not JSON: {error}") from None
    request = _object(header, "the request")
    parameters = _object(request.get("parameters", {}), "parameters")
    identity = request.get("id", "")
    if not isinstance(identity, str):
        raise Refusal("id must be a string")
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise Refusal(f"inputs must be a list of one tensor, {contract.input.name}")
    tensor = _object(inputs[0], "inputs[0]")
    images = _tensor(tensor, memoryview(body)[length:], contract)
    return Asked(identity, images, _binary(request, parameters, contract), time_limit(parameters))


def time_limit(parameters: Mapping[str, Any]) -> float | None:
    """Seconds of the parameter `timeout`, which counts microseconds as in Triton; 0 and none mean no limit.

    Raises:
        Refusal: it is no number from 0 on.
    """
    given = parameters.get("timeout")
    if given is None:
        return None
    microseconds = _whole(given, "timeout")
    return microseconds / 1e6 if microseconds else None


def admit_tensor(name: str, datatype: str, shape: list[int], data: Any, contract: Contract) -> Pixels | bytes:
    """A tensor that came as raw bytes.

    Raises:
        Refusal: name, type, shape or length differ from what the model takes.
    """
    if name != contract.input.name:
        raise Refusal(f"{contract.model} has no input {name!r}, only {contract.input.name}")
    if datatype == "BYTES":
        return _encoded(shape, data)
    if datatype != "UINT8":
        raise Refusal(f"{name} is UINT8 (or BYTES with an encoded image), got {datatype!r}")
    count = 1
    for side in shape:
        count *= side
    if count != len(data):
        raise Refusal(f"{name} of shape {shape} takes {count} bytes, got {len(data)}")
    if len(shape) != 4:
        raise Refusal(f"{name} has four dimensions, got shape {shape}")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def answer(
    model: str, version: str, asked: Asked, name: str, maps: Pixels
) -> tuple[bytes, memoryview | None]:
    """The JSON, and the raw tensor that follows it where the client asked for one; not a copy of the maps."""
    output: dict[str, Any] = {"name": name, "datatype": "UINT8", "shape": list(maps.shape)}
    if asked.binary:
        output["parameters"] = {"binary_data_size": maps.nbytes}
    else:
        output["data"] = maps.ravel().tolist()
    response: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": [output]}
    if asked.id:
        response["id"] = asked.id
    header = _compact(response).encode()
    return header, raw(maps) if asked.binary else None


def raw(maps: Pixels) -> memoryview:
    """The bytes of class maps in their order, without a copy where they lie in one block."""
    return np.ascontiguousarray(maps).data.cast("B")


def _tensor(tensor: dict[str, Any], raw: memoryview, contract: Contract) -> Pixels | bytes:
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(type(side) is int and 0 <= side < 2**31 for side in shape):
        raise Refusal("shape must be a list of lengths")
    name, datatype = str(tensor.get("name")), str(tensor.get("datatype"))
    size = _object(tensor.get("parameters", {}), "parameters of the input").get("binary_data_size")
    if size is not None:
        if "data" in tensor:
            raise Refusal("an input has either data or binary_data_size")
        if _whole(size, "binary_data_size") != len(raw):
            raise Refusal(f"binary_data_size is {size}, but {len(raw)} bytes follow the header")
        return admit_tensor(name, datatype, shape, raw, contract)
    if len(raw):
        raise Refusal(f"{len(raw)} bytes follow the header, but no input has binary_data_size")
    if datatype != "UINT8":
        raise Refusal(f"as JSON, {name} is UINT8; other types only as binary data")
    values = _numbers(tensor.get("data"))
    return admit_tensor(name, datatype, shape, values.tobytes(), contract)


def _numbers(data: Any) -> Pixels:
    try:
        values: npt.NDArray[Any] = np.asarray(data)
    except (ValueError, RecursionError, OverflowError):
        raise Refusal("data must be a list of numbers, flat or nested evenly") from None
    if values.dtype.kind not in "iu" or not values.size or values.min() < 0 or values.max() > 255:
        raise Refusal("data must be whole numbers of 0..255")
    return values.astype(np.uint8)


def _encoded(shape: list[int], data: Any) -> bytes:
    """The one element of a BYTES tensor: its length in four bytes, little-endian, then itself."""
    if any(side != 1 for side in shape):
        raise Refusal(f"one encoded image a request: a BYTES tensor of shape [1], got {shape}")
    if len(data) < 4 or int.from_bytes(data[:4], "little") != len(data) - 4:
        raise Refusal("a BYTES element is its length in four bytes, then so many bytes")
    return bytes(data[4:])


def _binary(request: dict[str, Any], parameters: dict[str, Any], contract: Contract) -> bool:
    asked = bool(parameters.get("binary_data_output", False))
    outputs = request.get("outputs")
    if outputs is None:
        return asked
    if not isinstance(outputs, list) or len(outputs) > 1:
        raise Refusal(f"outputs must be a list of one name, {contract.output.name}")
    for output in outputs:
        wanted = _object(output, "outputs[0]")
        if wanted.get("name") != contract.output.name:
            raise Refusal(
                f"{contract.model} has no output {wanted.get('name')!r}, only {contract.output.name}"
            )
        own = _object(wanted.get("parameters", {}), "parameters of the output")
        if own.get("classification"):
            raise Refusal("a class map has no classification; leave class_count out")
        return bool(own.get("binary_data", asked))
    return asked


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refusal(f"{place} must be a JSON object")
    return value


def _whole(value: Any, place: str) -> int:
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) < 16):
        raise Refusal(f"{place} must be a whole number from 0 on, got {text[:40]!r}")
    return int(text)
