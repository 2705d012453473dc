"""What a server is told when it starts."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """What one request may cost.

    Attributes:
        body: bytes of a request, packed or unpacked.
        pixels: of an encoded image, known from its header before it is decoded.
        read_seconds: for a client to send its request.
        seconds: from arrival to answer, where the request names no shorter time.
    """

    body: int
    pixels: int
    read_seconds: float
    seconds: float


class Scheduling(NamedTuple):
    """How an engine's requests are run.

    Attributes:
        sessions: engines opened side by side, one thread of Python each.
        threads: CPU threads of each session.
        queue: requests that may wait for a session.
        batch: images that may be joined into one call; 1 where joining does not pay.
        delay_seconds: how long a call waits for more images.
        watch: one answer in so many is looked at again for pixels of low confidence; 0 is none.
        sure: the highest class's probability below which a pixel is of low confidence.
    """

    sessions: int
    threads: int
    queue: int
    batch: int
    delay_seconds: float
    watch: int = 0
    sure: float = 0.5
