"""Noise that textures are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
Offset = tuple[int, int]
"""Row and column in the grain of a scene."""


def clouds(
    rng: Generator, height: int, width: int, cells: Sequence[tuple[int, int]], falloff: float
) -> Floats:
    """Smooth noise (H, W) about zero: a layer per (rows, columns) of `cells`, each `falloff` weaker."""
    total = np.zeros((height, width), dtype=np.float32)
    amplitude = 1.0
    for rows, columns in cells:
        layer = Image.fromarray(rng.random((rows + 1, columns + 1), dtype=np.float32) - np.float32(0.5))
        smooth = layer.resize((width, height), Image.Resampling.BICUBIC)
        total += np.float32(amplitude) * np.asarray(smooth)
        amplitude *= falloff
    return total


class Grain:
    """One square of fine noise per scene that every surface cuts its texture from."""

    size = 128

    def __init__(self, rng: Generator) -> None:
        fine = rng.standard_normal((self.size, self.size), dtype=np.float32)
        coarse = clouds(rng, self.size, self.size, [(16, 16), (42, 42)], 0.8)
        self.square: Floats = np.float32(0.6) * fine + np.float32(1.6) * coarse

    def cut(self, height: int, width: int, offset: Offset) -> Floats:
        """A piece (height, width) that starts at `offset`, repeated where it is larger than the square."""
        rows = np.arange(offset[0], offset[0] + height) % self.size
        columns = np.arange(offset[1], offset[1] + width) % self.size
        return self.square[rows[:, None], columns[None, :]]


def rgb(colour: tuple[float, float, float]) -> Floats:
    """A colour as an array (3,)."""
    return np.array(colour, dtype=np.float32)


def choose_offset(rng: Generator) -> Offset:
    """Draw where in the grain a surface begins."""
    row, column = divmod(int(rng.integers(Grain.size * Grain.size)), Grain.size)
    return row, column
