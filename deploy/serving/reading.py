"""What arrives over HTTP, read into one buffer of all connections, and memory that stays with the process.

A request of the protocol is some hundred kilobytes. Left alone, the event loop takes a new block of 256 kB
from the system for every piece of it and gives it back, and the system must clear each page of it anew.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = logging.getLogger("deploy.serving")
SIZE = 1 << 18
TOGETHER = 1 << 20
"""Bytes of a body that the app gets at once; more of it waits until it has taken these."""

_BUFFER = memoryview(bytearray(SIZE))

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's settings, from its malloc.h."""
KEPT = 32 << 20
"""Bytes; a block of so many or more still goes back to the system at once."""


class _WholeBodies(HttpToolsProtocol):
    """Wakes the app when a body is whole or has a megabyte, instead of stopping the client at each 64 kB."""

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) >= TOGETHER:
            self.flow.pause_reading()
            cycle.message_event.set()


class SharedBuffer(asyncio.BufferedProtocol):
    """uvicorn's protocol of HTTP, which parses what was read before the next read may begin.

    The event loop asks for the buffer, fills it and tells of it without a turn in between, so one buffer is
    enough; no connection sees more of it than was just read for itself.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        self._inner = _WholeBodies(*given, **named)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self._inner.connection_made(cast(asyncio.Transport, transport))

    def connection_lost(self, exc: Exception | None) -> None:
        """A client is gone."""
        self._inner.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to put what comes next."""
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes came."""
        self._inner.data_received(cast(bytes, _BUFFER[:nbytes]))

    def eof_received(self) -> None:
        """The client will send no more."""
        self._inner.eof_received()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._inner.resume_writing()


def keep_memory() -> None:
    """Let glibc keep up to 32 MiB of freed memory an arena for the next request; others do as before."""
    try:
        library = ctypes.CDLL(None)
        kept = all(library.mallopt(which, KEPT) for which in (MMAP_THRESHOLD, TRIM_THRESHOLD))
    except (OSError, AttributeError):
        kept = False
    if not kept:
        log.info("the C library has no mallopt: each request takes its memory from the system anew")
