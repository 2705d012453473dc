"""Random numbers that are a function of a key: the same on every device, rank and micro-batch."""

from __future__ import annotations

import torch
from torch import Tensor

# SplitMix64 (Steele, Lea, Flood 2014): Weyl increment and the two mixing factors, as signed 64-bit values.
_INCREMENT = 0x9E3779B97F4A7C15 - 2**64
_FACTOR_1 = 0xBF58476D1CE4E5B9 - 2**64
_FACTOR_2 = 0x94D049BB133111EB - 2**64


def uniform(keys: Tensor, count: int) -> Tensor:
    """`count` numbers per key, uniform on [0, 1) in steps of 2^-24, on the keys' device.

    A counter-based hash rather than a generator: no state, no copy from the host, and a sample draws
    the same numbers whatever else is in its batch.

    Args:
        keys: (B,) int64.
        count: numbers per key.

    Returns:
        (B, count) float32.
    """
    positions = torch.arange(1, count + 1, device=keys.device)
    state = _mix(keys.long() * _INCREMENT)[:, None] + positions * _INCREMENT
    return _shift_right(_mix(state), 40).float() * 2.0**-24


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _FACTOR_1
    x = (x ^ _shift_right(x, 27)) * _FACTOR_2
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """A logical shift; torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
