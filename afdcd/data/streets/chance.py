"""Choosing one of a few, without the overhead of numpy's general choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from numpy.random import Generator

T = TypeVar("T")


def pick(rng: Generator, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
    """One of the options, each as likely as its weight (all alike without weights)."""
    if weights is None:
        return options[int(rng.random() * len(options))]
    left = rng.random() * sum(weights)
    for option, weight in zip(options, weights, strict=True):
        left -= weight
        if left < 0:
            return option
    return options[-1]


def coin(rng: Generator, chance: float = 0.5) -> bool:
    """True with that probability."""
    return bool(rng.random() < chance)


def sign(rng: Generator) -> int:
    """-1 or 1."""
    return 1 if rng.random() < 0.5 else -1
