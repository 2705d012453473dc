"""A polite end: SIGTERM and SIGINT let the iteration finish, so that the state can be saved."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from torch import Tensor


class StopRequest:
    """Whether someone asked this process to end."""

    def __init__(self) -> None:
        self.asked = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


class StopVote:
    """Whether any process was asked to stop, known to all after the same iteration.

    The sum of all processes' wishes rides on a reduction that an iteration makes anyway. On a GPU the host
    waits for that reduction, which opens the iteration, and never for the rest of it.
    """

    def __init__(self, device: torch.device) -> None:
        """Keep the last sum where the host reads it."""
        cuda = device.type == "cuda"
        self._wishes = torch.zeros((), pin_memory=cuda)
        self._arrived = torch.cuda.Event() if cuda else None  # type: ignore[no-untyped-call]

    def count(self, wishes: Tensor) -> None:
        """Note the sum over all processes, a scalar on the device."""
        self._wishes.copy_(wishes, non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()

    def passed(self) -> bool:
        """Whether any process wished to stop when the last sum was made."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._wishes.item() > 0


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Note SIGTERM and SIGINT instead of dying of them; a second SIGINT interrupts at once."""
    request = StopRequest()
    before = {number: signal.signal(number, request._note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
