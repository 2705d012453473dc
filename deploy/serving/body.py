"""Reads a request's body within bounds of size and time, unpacking gzip and deflate as it comes."""

from __future__ import annotations

import asyncio
import zlib

from starlette.requests import ClientDisconnect, Request

from deploy.serving.options import Limits
from deploy.serving.refusal import Refusal, TooLarge, TooSlow

GZIP_OR_ZLIB = zlib.MAX_WBITS | 32


async def read(request: Request, limits: Limits) -> bytes:
    """The body, unpacked.

    Raises:
        TooLarge: packed or unpacked it is beyond the cap; no more than the cap was held.
        TooSlow: it did not come in time.
        Refusal: the encoding is unknown or the packed data is damaged.
    """
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip", "deflate"):
        raise Refusal(f"Content-Encoding is gzip or deflate, got {encoding[:40]!r}")
    told = request.headers.get("content-length", "0")
    if told.isdigit() and int(told) > limits.body:
        raise TooLarge(f"the body has {told} bytes, at most {limits.body} go")
    try:
        async with asyncio.timeout(limits.read_seconds):
            packed = await _collect(request, limits.body)
    except TimeoutError:
        raise TooSlow(f"the body did not come within {limits.read_seconds:g} seconds") from None
    except ClientDisconnect:
        raise Refusal("the client went away before its body was whole") from None
    if encoding == "identity":
        return packed
    return await asyncio.to_thread(_unpack, packed, limits.body)


async def _collect(request: Request, cap: int) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > cap:
            raise TooLarge(f"the body has more than {cap} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


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
