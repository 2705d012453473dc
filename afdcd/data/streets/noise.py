"""Noise that textures are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]


def clouds(rng: Generator, height: int, width: int, cells: Sequence[tuple[int, int]], falloff: float) -> Floats:
    """Smooth noise (H, W) about zero: one bicubic layer per (rows, columns) of `cells`, each `falloff` weaker."""
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

    size = 192

    def __init__(self, rng: Generator) -> None:
        fine = rng.standard_normal((self.size, self.size), dtype=np.float32)
        coarse = clouds(rng, self.size, self.size, [(24, 24), (64, 64)], 0.8)
        self.square: Floats = np.float32(0.6) * fine + np.float32(1.6) * coarse

    def cut(self, height: int, width: int, row: int, column: int) -> Floats:
        """A piece (height, width) from (row, column) on, repeated where it is larger than the square."""
        rows = np.arange(row, row + height) % self.size
        columns = np.arange(column, column + width) % self.size
        return self.square[rows[:, None], columns[None, :]]
