"""What a scene is painted on: colours, class ids, and the shadows that the ground will show."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from afdcd.data.streets.camera import NEAR, Camera, Point, clip_near
from afdcd.data.streets.light import Colour, Light
from afdcd.data.streets.noise import Floats, rgb

Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]


class Canvas:
    """Painter's algorithm: what is drawn later covers what was drawn before, in colours and in class ids."""

    def __init__(self, camera: Camera, light: Light) -> None:
        self.camera = camera
        self.light = light
        size = (camera.width, camera.height)
        self.image = Image.new("RGB", size)
        self.mask = Image.new("L", size)
        self.shadows = Image.new("L", size)
        self._colours = ImageDraw.Draw(self.image)
        self._labels = ImageDraw.Draw(self.mask)
        self._shadows = ImageDraw.Draw(self.shadows)

    def polygon(self, points: Sequence[Point], albedo: Colour, cosine: float, label: int | None) -> None:
        """Paint a flat polygon of world points; a `label` of None keeps the ids that lie below."""
        points = clip_near(points)
        if len(points) < 3:
            return
        outline = self.camera.project(points)
        distance = min(p[2] for p in points)
        self._colours.polygon(outline, fill=self.light.shade(albedo, cosine, distance))
        if label is not None:
            self._labels.polygon(outline, fill=label)

    def disc(
        self, centre: Point, radii: tuple[float, float], albedo: Colour, cosine: float, label: int | None
    ) -> None:
        """Paint an ellipse that faces the camera; radii (x, y) in metres."""
        x, y, z = centre
        if z < NEAR:
            return
        (left, top), (right, bottom) = self.camera.project(
            [(x - radii[0], y + radii[1], z), (x + radii[0], y - radii[1], z)]
        )
        box = (left, top, max(right, left + 1), max(bottom, top + 1))
        self._colours.ellipse(box, fill=self.light.shade(albedo, cosine, z))
        if label is not None:
            self._labels.ellipse(box, fill=label)

    def ring(
        self, centre: Point, radius: float, width: float, albedo: Colour, cosine: float, label: int
    ) -> None:
        """Paint a wheel that faces the camera: its rim in colours, its whole disc in class ids."""
        x, y, z = centre
        if z < NEAR:
            return
        (left, top), (right, bottom) = self.camera.project(
            [(x - radius, y + radius, z), (x + radius, y - radius, z)]
        )
        box = (left, top, max(right, left + 1), max(bottom, top + 1))
        thick = max(1, round(width * self.camera.focal / z))
        self._colours.ellipse(box, outline=self.light.shade(albedo, cosine, z), width=thick)
        self._labels.ellipse(box, fill=label)

    def sees_wall(self, x: float, span: tuple[float, float]) -> bool:
        """Whether some column of the canvas shows the plane at `x` between those distances."""
        first, last = self._columns(x / max(span[0], NEAR), x / max(span[1], NEAR))
        return first < last

    def sees_front(self, sides: tuple[float, float], z: float) -> bool:
        """Whether some column of the canvas shows that stretch, z metres away."""
        first, last = self._columns(sides[0] / max(z, NEAR), sides[1] / max(z, NEAR))
        return first < last and z >= NEAR

    def _columns(self, start: float, stop: float) -> tuple[int, int]:
        """The canvas columns between two slopes x/z."""
        ends = sorted((self.camera.cx + self.camera.focal * start, self.camera.cx + self.camera.focal * stop))
        return max(0, math.ceil(ends[0] - 0.5)), min(self.camera.width, math.ceil(ends[1] - 0.5))

    def wall(
        self,
        x: float,
        span: tuple[float, float],
        heights: tuple[float, float],
        texture: Floats,
        label: int,
        shape: Bools | None = None,
    ) -> None:
        """Hang a lit texture (h, w, 3), top row first, on the plane at `x`, columns from z=span[0] on.

        Where `shape` (h, w) is false nothing is painted.
        """
        camera, near = self.camera, max(span[0], NEAR)
        first, last = self._columns(x / near, x / max(span[1], near))
        rows = [camera.cy + camera.focal * (camera.eye - y) / z for y in heights for z in (near, span[1])]
        top, bottom = max(0, math.floor(min(rows))), min(camera.height, math.ceil(max(rows)))
        if first >= last or top >= bottom:
            return
        tall, wide = texture.shape[:2]
        depths = np.linspace(span[0], span[1], wide, dtype=np.float32)
        z = np.float32(camera.focal * x) / (
            np.arange(first, last, dtype=np.float32) + np.float32(0.5 - camera.cx)
        )
        u = (z - np.float32(span[0])) * np.float32(wide / (span[1] - span[0]))
        row = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - camera.cy)
        scale = tall / (heights[1] - heights[0])
        v = row * (z * np.float32(scale / camera.focal)) + np.float32((heights[1] - camera.eye) * scale)
        rows_of = np.minimum(np.maximum(v, 0), tall - 1).astype(np.intp)
        columns_of = np.minimum(np.maximum(u, 0), wide - 1).astype(np.intp)
        inside = (v >= 0) & (v < tall)
        if shape is not None:
            inside &= shape[rows_of, columns_of]
        self._paste((first, top), self._hazed(texture, depths)[rows_of, columns_of], label, inside)

    def front(
        self,
        sides: tuple[float, float],
        z: float,
        heights: tuple[float, float],
        texture: Floats,
        label: int,
        shape: Bools | None = None,
    ) -> None:
        """Hang a lit texture (h, w, 3) on a plane that faces the camera, from x=sides[0] to sides[1]."""
        camera, (tall, wide) = self.camera, texture.shape[:2]
        if not self.sees_front(sides, z):
            return
        first, last = self._columns(sides[0] / z, sides[1] / z)
        ends = [camera.cy + camera.focal * (camera.eye - y) / z for y in heights]
        top, bottom = max(0, math.ceil(ends[1] - 0.5)), min(camera.height, math.ceil(ends[0] - 0.5))
        if top >= bottom:
            return
        left, across = camera.cx + camera.focal * sides[0] / z, camera.focal * (sides[1] - sides[0]) / z
        u = (np.arange(first, last) + (0.5 - left)) * (wide / across)
        v = (np.arange(top, bottom) + (0.5 - ends[1])) * (tall / (ends[0] - ends[1]))
        columns_of = np.clip(u, 0, wide - 1).astype(np.intp)
        rows_of = np.clip(v, 0, tall - 1).astype(np.intp)[:, None]
        hazed = self._hazed(texture, np.array([z], dtype=np.float32))
        inside = None if shape is None else shape[rows_of, columns_of]
        self._paste((first, top), hazed[rows_of, columns_of], label, inside)

    def _hazed(self, texture: Floats, z: Floats) -> Bytes:
        """A texture (h, w, 3) as it looks from afar; z (w,) or (1,) is the distance of its columns."""
        clear = np.exp(np.float32(-self.light.fog) * z)[:, None]
        hazed = texture * clear + rgb(self.light.horizon) * (1 - clear)
        painted: Bytes = np.minimum(hazed, 255).astype(np.uint8)
        return painted

    def _paste(self, corner: tuple[int, int], patch: Bytes, label: int, inside: Bools | None) -> None:
        """Put a patch (h, w, 3) with its upper left at `corner` (x, y), where `inside` is true."""
        box = (corner[0], corner[1], corner[0] + patch.shape[1], corner[1] + patch.shape[0])
        stencil = None if inside is None else Image.fromarray(inside.view(np.uint8) * np.uint8(255))
        self.image.paste(Image.fromarray(patch), corner, stencil)
        self.mask.paste(label, box, stencil)

    def cast(self, footprint: Sequence[tuple[float, float]], height: float, base: float = 0.0) -> None:
        """Let an upright prism on the ground points (x, z) throw its shadow; `base` lifts its lower edge."""
        sun = self.light.toward
        if not self.light.casts:
            return
        drift = (-sun[0] / sun[1], -sun[2] / sun[1])
        moved = [(x + drift[0] * h, z + drift[1] * h) for h in (base, height) for x, z in footprint]
        self.darken(_hull(moved), 255)

    def darken(self, outline: Sequence[tuple[float, float]], amount: int) -> None:
        """Mark a polygon of ground points (x, z) as shaded, 0..255."""
        points = clip_near([(x, 0.0, z) for x, z in outline])
        if len(points) >= 3:
            self._shadows.polygon(self.camera.project(points), fill=amount)


def _hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Convex hull (Andrew's monotone chain)."""
    ordered = sorted(points)
    chains: list[list[tuple[float, float]]] = []
    for walk in (ordered, ordered[::-1]):
        chain: list[tuple[float, float]] = []
        for p in walk:
            while len(chain) >= 2:
                (ax, az), (bx, bz) = chain[-2:]
                if (bx - ax) * (p[1] - az) > (bz - az) * (p[0] - ax):
                    break
                chain.pop()
            chain.append(p)
        chains.append(chain[:-1])
    return chains[0] + chains[1]
