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
        if first >= last:
            return
        columns = np.arange(first, last, dtype=np.float32) + np.float32(0.5 - camera.cx)
        z = np.float32(camera.focal * x) / columns
        u = (z - np.float32(span[0])) * np.float32(texture.shape[1] / (span[1] - span[0]))
        self._hang(first, z[None, :], u, (near, span[1]), heights, texture, label, shape)

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
        camera, z = self.camera, max(z, NEAR)
        first, last = self._columns(sides[0] / z, sides[1] / z)
        if first >= last:
            return
        left, wide = camera.cx + camera.focal * sides[0] / z, camera.focal * (sides[1] - sides[0]) / z
        u = (np.arange(first, last, dtype=np.float32) + np.float32(0.5 - left)) * np.float32(
            texture.shape[1] / wide
        )
        self._hang(first, np.full((1, 1), z, np.float32), u, (z, z), heights, texture, label, shape)

    def _hang(
        self,
        first: int,
        z: Floats,
        u: Floats,
        reach: tuple[float, float],
        heights: tuple[float, float],
        texture: Floats,
        label: int,
        shape: Bools | None,
    ) -> None:
        """Look up a texture by column positions `u` (texels) and by height; z is (1, W) or (1, 1)."""
        camera = self.camera
        rows = [camera.cy + camera.focal * (camera.eye - y) / d for y in heights for d in reach]
        top, bottom = max(0, math.floor(min(rows))), min(camera.height, math.ceil(max(rows)))
        if top >= bottom:
            return
        tall, wide = texture.shape[:2]
        row = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - camera.cy)
        drop = np.float32(heights[1] - camera.eye) + row * (z / np.float32(camera.focal))
        v = drop * np.float32(tall / (heights[1] - heights[0]))
        row_index = np.minimum(np.maximum(v, 0), tall - 1).astype(np.intp)
        column_index = np.minimum(np.maximum(u, 0), wide - 1).astype(np.intp)[None, :]
        inside = (v >= 0) & (v < tall)
        if inside.shape[1] != column_index.shape[1]:
            inside = np.repeat(inside, column_index.shape[1], axis=1)
        if shape is not None:
            inside = inside & shape[row_index, column_index]
        clear = np.exp(np.float32(-self.light.fog) * z)[..., None]
        patch = texture[row_index, column_index] * clear + rgb(self.light.horizon) * (1 - clear)
        stencil = Image.fromarray(inside.view(np.uint8) * np.uint8(255))
        colours = Image.fromarray(np.minimum(patch, 255).astype(np.uint8))
        self.image.paste(colours, (first, top), stencil)
        self.mask.paste(label, (first, top, first + stencil.width, top + stencil.height), stencil)

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
