"""Tensors in gRPC's messages without the copies that protobuf would make of them.

A raw tensor is one long field among short ones. Cut out before the rest is parsed, it stays where it arrived;
put behind the rest that is already written, it is copied once. Protobuf takes fields in any order, so the
bytes on the wire are an ordinary message.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from deploy.serving.messages import CLASSES, MESSAGES

RAW_IN = MESSAGES["ModelInferRequest"]["raw_input_contents"][0]
RAW_OUT = MESSAGES["ModelInferResponse"]["raw_output_contents"][0]
LENGTH_DELIMITED = 2


class InferRequest(NamedTuple):
    """A ModelInferRequest without its raw tensors, and these as views of what came."""

    message: Any
    raw: list[memoryview]


class InferResponse(NamedTuple):
    """A ModelInferResponse without its raw tensor, and the bytes of it."""

    message: Any
    raw: memoryview


def read_request(content: bytes) -> InferRequest:
    """Parse a ModelInferRequest.

    Raises:
        google.protobuf.message.DecodeError: it is none.
    """
    rest, raw = _part(content)
    return InferRequest(CLASSES["ModelInferRequest"].FromString(rest), raw)


def write_response(response: InferResponse) -> bytes:
    """Serialise it."""
    head = response.message.SerializeToString()
    return b"".join(
        [head, _varint(RAW_OUT << 3 | LENGTH_DELIMITED), _varint(len(response.raw)), response.raw]
    )


def _part(content: bytes) -> tuple[bytes, list[memoryview]]:
    """The other fields and the raw tensors; all of it and none where anything looks odd."""
    view, kept, raw = memoryview(content), [], []
    place, end = 0, len(content)
    while place < end:
        start = place
        tag, place = _read_varint(content, place)
        if tag & 7 != LENGTH_DELIMITED:
            return content, []
        length, place = _read_varint(content, place)
        if not 0 <= length <= end - place:
            return content, []
        if tag >> 3 == RAW_IN:
            raw.append(view[place : place + length])
        else:
            kept.append(view[start : place + length])
        place += length
    return b"".join(kept), raw


def _read_varint(content: bytes, place: int) -> tuple[int, int]:
    """A number and where it ends; -1 where it does not."""
    value = 0
    for shift in range(0, 64, 7):
        if place >= len(content):
            break
        byte = content[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    return -1, place


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)
