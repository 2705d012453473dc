"""Multiply-accumulates of what runs inside, those of products in C included."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from torch.utils.flop_counter import FlopCounterMode

from afdcd.losses import product


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """torch's counter; products are torch's meanwhile, which it sees and which know bare shapes."""
    with (
        mock.patch.object(product, "prefers_product", lambda: False),
        FlopCounterMode(display=False) as counter,
    ):
        yield counter
