"""Reads a request's body within bounds of size and time, unpacking gzip and deflate as it comes."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping

from deploy.serving.front import Receive
from deploy.serving.options import Limits
from deploy.serving.refusal import Refusal, TooLarge, TooSlow

GZIP_OR_ZLIB = zlib.MAX_WBITS | 32


async def read(headers: Mapping[bytes, bytes], receive: Receive, limits: Limits) -> bytes:
    """The body, unpacked.

    Args:
        headers: of the request, names in lower case.
        receive: of ASGI.
        limits: of the server.

    Raises:
        TooLarge: packed or unpacked it is beyond the cap; it was not read to its end.
        TooSlow: it did not come in time.
        Refusal: the encoding is unknown, the packed data is damaged, or the client went away.
    """
    encoding = headers.get(b"content-encoding", b"identity").lower()
    if encoding not in (b"identity", b"gzip", b"deflate"):
        raise Refusal(f"Content-Encoding is gzip or deflate, got {encoding[:40].decode('latin-1')!r}")
    told = headers.get(b"content-length", b"0")
    if told.isdigit() and int(told) > limits.body:
        raise TooLarge(f"the body has {int(told)} bytes, at most {limits.body} go")
    try:
        async with asyncio.timeout(limits.read_seconds):
            packed = await _collect(receive, limits.body)
    except TimeoutError:
        raise TooSlow(f"the body did not come within {limits.read_seconds:g} seconds") from None
    if encoding == b"identity":
        return packed
    return await asyncio.to_thread(_unpack, packed, limits.body)


async def _collect(receive: Receive, cap: int) -> bytes:
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal("the client went away before its body was whole")
        chunk = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(chunk)
        if size > cap:
            raise TooLarge(f"the body has more than {cap} bytes")
        if chunk:
            chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _unpack(packed: bytes, cap: int) -> bytes:
    unpacker = zlib.decompressobj(GZIP_OR_ZLIB)
    try:
        body = unpacker.decompress(packed, cap + 1)
    except zlib.error as error:
        raise Refusal(f"the body is no gzip or deflate data: {error}") from None
    if len(body) > cap:
        raise TooLarge(f"the body unpacks to more than {cap} bytes")
    if not unpacker.eof:
        raise Refusal("the packed body ends too early")
    return body
