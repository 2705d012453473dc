"""Inference over HTTP, straight on ASGI: asked for so often that a framework's objects would be felt."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping, Sequence

from deploy.serving import body, codec
from deploy.serving.codec import HEADER_LENGTH, Asked
from deploy.serving.front import Receive, Scope, Send
from deploy.serving.models import Version
from deploy.serving.refusal import Refusal
from deploy.serving.service import Served, Service

TIMEOUT_HEADER = "x-request-timeout-ms"
THREADED = 65536
"""Bodies of JSON beyond this are read and written in a thread, so that others need not wait."""

_LENGTH, _TIMEOUT = HEADER_LENGTH.lower().encode(), TIMEOUT_HEADER.encode()
Headers = Mapping[bytes, bytes]


class Infer:
    """The ASGI app behind `infer`; `scope` brings the model's name and version.

    Args:
        serving: the models.
    """

    def __init__(self, serving: Service) -> None:
        self._serving = serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        headers: Headers = dict(scope["headers"])
        name, number = scope["path_params"]["model"], scope["path_params"].get("version", "")
        version = self._serving.models.get(name, number)
        own = seconds(headers)
        asked = await _asked(await body.read(headers, receive, self._serving.limits), headers, version)
        limit = self._serving.seconds(asked.seconds if own is None else own)
        served = await self._serving.infer(name, number, asked.images, limit)
        given = (name, served.version.number, asked, served.version.contract.output.name, served.maps)
        if asked.binary or served.maps.nbytes < THREADED:
            head, raw = codec.answer(*given)
        else:
            head, raw = await asyncio.to_thread(codec.answer, *given)
        media = b"application/json" if raw is None else b"application/octet-stream"
        told = [(b"content-type", media), *timing(served)]
        if raw is not None:
            told.append((_LENGTH, str(len(head)).encode()))
        parts: Sequence[bytes | memoryview] = (head,) if raw is None else (head, raw)
        wished = headers.get(b"accept-encoding", b"")
        kind = b"gzip" if b"gzip" in wished else b"deflate" if b"deflate" in wished else None
        if kind is not None:
            parts = (await asyncio.to_thread(_pack, parts, kind),)
            told.append((b"content-encoding", kind))
        await answer(told, parts, send)


def seconds(headers: Headers) -> float | None:
    """What a request's header leaves it of time; None where it says nothing.

    Raises:
        Refusal: it is no whole number of milliseconds from 1 on.
    """
    given = headers.get(_TIMEOUT)
    if given is None:
        return None
    if not (given.isdigit() and len(given) < 10 and int(given)):
        text = given[:40].decode("latin-1")
        raise Refusal(f"{TIMEOUT_HEADER} must be whole milliseconds from 1 on, got {text!r}")
    return int(given) / 1e3


def timing(served: Served) -> list[tuple[bytes, bytes]]:
    """The headers that tell where the time went and which version answered."""
    times = served.timing
    told = f"queue;dur={times.queued * 1e3:.3f}, compute;dur={times.computed * 1e3:.3f}"
    if served.decoded is not None:
        told = f"decode;dur={served.decoded * 1e3:.3f}, {told}"
    return [(b"server-timing", told.encode()), (b"x-model-version", served.version.number.encode())]


async def answer(headers: list[tuple[bytes, bytes]], parts: Sequence[bytes | memoryview], send: Send) -> None:
    """Send 200 with these headers and a body of these parts, none of which is copied here."""
    length = sum(map(len, parts))
    headers.append((b"content-length", str(length).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for left, part in zip(range(len(parts) - 1, -1, -1), parts, strict=True):
        await send({"type": "http.response.body", "body": part, "more_body": left > 0})


async def _asked(content: bytes, headers: Headers, version: Version) -> Asked:
    length = headers.get(_LENGTH)
    if length is None and len(content) > THREADED:
        return await asyncio.to_thread(codec.parse, content, None, version.contract)
    return codec.parse(content, None if length is None else length.decode("latin-1"), version.contract)


def _pack(parts: Sequence[bytes | memoryview], kind: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | (16 if kind == b"gzip" else 0))
    return b"".join([*map(packer.compress, parts), packer.flush()])
