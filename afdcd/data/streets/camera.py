"""A pinhole camera above a flat street: x right, y up, z forward, in metres; the eye is at (0, eye, 0)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float, float]
Floats = NDArray[np.float32]

NEAR = 0.8
"""Nothing nearer than this (metres) is drawn."""


@dataclass(frozen=True)
class Camera:
    """Canvas size and focal length in canvas pixels; (cx, cy) is the vanishing point of the street."""

    width: int
    height: int
    focal: float
    cx: float
    cy: float
    eye: float

    def project(self, points: Sequence[Point]) -> list[tuple[float, float]]:
        """Canvas positions (x, y) of world points that lie beyond `NEAR`."""
        f, cx, cy, eye = self.focal, self.cx, self.cy, self.eye
        return [(cx + f * x / z, cy + f * (eye - y) / z) for x, y, z in points]

    def ground(self) -> tuple[int, Floats, Floats]:
        """First canvas row below the horizon, x of each ground pixel (H, W), z of each row (H, 1), metres."""
        first = min(max(int(np.ceil(self.cy + 0.5)), 0), self.height)
        rows = np.arange(first, self.height, dtype=np.float32) + np.float32(0.5)
        z = np.float32(self.focal * self.eye) / (rows[:, None] - np.float32(self.cy))
        columns = np.arange(self.width, dtype=np.float32) + np.float32(0.5 - self.cx)
        return first, columns[None, :] * (z / np.float32(self.focal)), z


def clip_near(points: Sequence[Point]) -> list[Point]:
    """The part of a polygon beyond `NEAR` (Sutherland and Hodgman, one plane)."""
    if all(p[2] >= NEAR for p in points):
        return list(points)
    kept: list[Point] = []
    for a, b in zip(points, [*points[1:], points[0]], strict=True):
        if a[2] >= NEAR:
            kept.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            t = (NEAR - a[2]) / (b[2] - a[2])
            kept.append((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]), NEAR))
    return kept
