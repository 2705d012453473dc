"""Cars, vans and buses: a body, a tapering cabin and wheels, at any heading."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from numpy.random import Generator

from afdcd.data.streets.camera import Point
from afdcd.data.streets.canvas import Canvas
from afdcd.data.streets.chance import pick
from afdcd.data.streets.classes import CAR
from afdcd.data.streets.light import Colour
from afdcd.data.streets.noise import Grain

# colour and how common it is
_PAINTS: tuple[tuple[Colour, float], ...] = (
    ((226, 226, 222), 0.16),
    ((184, 188, 192), 0.14),
    ((128, 132, 138), 0.12),
    ((84, 88, 94), 0.10),
    ((42, 44, 50), 0.12),
    ((44, 62, 100), 0.08),
    ((78, 108, 148), 0.07),
    ((150, 40, 38), 0.08),
    ((112, 34, 40), 0.04),
    ((54, 84, 68), 0.03),
    ((178, 158, 118), 0.03),
    ((206, 164, 52), 0.03),
)


@dataclass(frozen=True)
class Shape:
    """Metres; `base` and `roof`: where the cabin starts and ends, shares of the length from -0.5 (rear)."""

    length: float
    half: float
    belt: float
    top: float
    bonnet: float
    base: tuple[float, float]
    roof: tuple[float, float]
    panelled: bool


# hatchback, saloon, estate, van, bus, and how common each is
_SHAPES: tuple[tuple[Shape, float], ...] = (
    (Shape(3.9, 0.86, 0.92, 1.48, 0.80, (-0.49, 0.20), (-0.38, 0.03), False), 0.34),
    (Shape(4.6, 0.90, 0.90, 1.42, 0.78, (-0.36, 0.19), (-0.20, 0.04), False), 0.26),
    (Shape(4.5, 0.92, 1.02, 1.64, 0.92, (-0.50, 0.21), (-0.44, 0.06), False), 0.24),
    (Shape(5.2, 1.00, 1.15, 2.25, 1.02, (-0.50, 0.36), (-0.49, 0.24), True), 0.12),
    (Shape(9.5, 1.25, 1.30, 3.00, 1.25, (-0.50, 0.495), (-0.495, 0.48), False), 0.04),
)


@dataclass(frozen=True)
class Car:
    """A vehicle whose middle stands at (x, z); `heading` 0 drives away from the camera, radians clockwise."""

    x: float
    z: float
    heading: float
    shape: Shape
    paint: Colour

    def shadow(self, canvas: Canvas) -> None:
        """Cast its shadow, and always darken the ground beneath."""
        s = self.shape
        corners = [
            (p[0], p[2])
            for p in self._at([(a, b, 0) for a, b in ((-0.5, -1), (-0.5, 1), (0.5, 1), (0.5, -1))])
        ]
        canvas.cast(corners, 0.8 * s.top)
        canvas.darken(corners, 255)

    def draw(self, canvas: Canvas, grain: Grain) -> None:
        """Paint the faces that the camera sees, body first, cabin above it."""
        side = self._visible(1.0, across=True)
        end = self._visible(1.0, across=False)
        self._body(canvas, side, end)
        self._wheels(canvas, side)
        self._cabin(canvas, side, end)
        self._face(canvas, end)

    def _at(self, local: Sequence[tuple[float, float, float]]) -> list[Point]:
        """World points of (share of length, share of half width, height)."""
        sine, cosine = math.sin(self.heading), math.cos(self.heading)
        points: list[Point] = []
        for a, b, y in local:
            along, across = a * self.shape.length, b * self.shape.half
            points.append(
                (self.x + along * sine + across * cosine, y, self.z + along * cosine - across * sine)
            )
        return points

    def _normal(self, sign: float, *, across: bool) -> tuple[float, float]:
        """Outward normal (x, z) of a side or of an end."""
        sine, cosine = math.sin(self.heading), math.cos(self.heading)
        return (sign * cosine, -sign * sine) if across else (sign * sine, sign * cosine)

    def _visible(self, sign: float, *, across: bool) -> float:
        """Which of the two opposite faces the camera sees: `sign` or its opposite."""
        middle = self._at([(0, sign, 0) if across else (sign * 0.5, 0, 0)])[0]
        normal = self._normal(sign, across=across)
        return sign if normal[0] * middle[0] + normal[1] * middle[2] < 0 else -sign

    def _lit(self, canvas: Canvas, sign: float, *, across: bool) -> float:
        normal = self._normal(sign, across=across)
        return canvas.light.cosine(normal[0], 0.15, normal[1])

    def _body(self, canvas: Canvas, side: float, end: float) -> None:
        s, up = self.shape, canvas.light.cosine(0, 1, 0)
        deck = [(-0.5, -1, s.belt), (-0.5, 1, s.belt), (s.base[1], 1, s.belt), (s.base[1], -1, s.belt)]
        canvas.polygon(self._at(deck), self.paint, up, CAR)
        nose = [
            (s.base[1], -1, s.belt),
            (s.base[1], 1, s.belt),
            (0.5, 0.95, s.bonnet),
            (0.5, -0.95, s.bonnet),
        ]
        canvas.polygon(self._at(nose), self.paint, up, CAR)
        flank = [
            (-0.49, 0.28),
            (-0.5, 0.62),
            (-0.48, s.belt),
            (s.base[1], s.belt),
            (0.46, s.bonnet),
            (0.5, 0.55),
            (0.49, 0.28),
        ]
        lit = self._lit(canvas, side, across=True)
        canvas.polygon(self._at([(a, side, y) for a, y in flank]), self.paint, lit, CAR)
        sill = [(-0.49, side, 0.2), (0.49, side, 0.2), (0.49, side, 0.36), (-0.49, side, 0.36)]
        canvas.polygon(self._at(sill), (44, 44, 46), lit, CAR)
        high = s.bonnet if end > 0 else s.belt
        front = [(-0.94, 0.3), (-1, 0.55), (-0.93, high), (0.93, high), (1, 0.55), (0.94, 0.3)]
        canvas.polygon(
            self._at([(end * 0.5, b, y) for b, y in front]),
            self.paint,
            self._lit(canvas, end, across=False),
            CAR,
        )

    def _wheels(self, canvas: Canvas, side: float) -> None:
        radius = 0.33 if self.shape.length < 6 else 0.48
        for place in (-0.31, 0.31):
            for size, albedo in ((1.0, (26.0, 26.0, 28.0)), (0.55, (138.0, 140.0, 144.0))):
                rim = [
                    (
                        place + size * radius * math.cos(t * 0.5236) / self.shape.length,
                        side * 1.01,
                        radius + size * radius * math.sin(t * 0.5236),
                    )
                    for t in range(12)
                ]
                canvas.polygon(self._at(rim), albedo, self._lit(canvas, side, across=True), CAR)

    def _cabin(self, canvas: Canvas, side: float, end: float) -> None:
        s, light = self.shape, canvas.light
        taper = 0.97 if s.panelled or s.length > 6 else 0.78
        glass = (
            30 + 0.22 * light.horizon[0],
            34 + 0.24 * light.horizon[1],
            38 + 0.26 * light.horizon[2],
        )
        roof = [
            (s.roof[0], -taper, s.top),
            (s.roof[0], taper, s.top),
            (s.roof[1], taper, s.top),
            (s.roof[1], -taper, s.top),
        ]
        canvas.polygon(self._at(roof), self.paint, light.cosine(0, 1, 0), CAR)
        base, top = (s.base[0], s.base[1]), (s.roof[0], s.roof[1])
        flank = [
            (base[0], side * 0.96, s.belt),
            (base[1], side * 0.96, s.belt),
            (top[1], side * taper, s.top),
            (top[0], side * taper, s.top),
        ]
        lit = self._lit(canvas, side, across=True)
        canvas.polygon(self._at(flank), self.paint, lit, CAR)
        for start, stop in ((0.62, 0.95),) if s.panelled else ((0.08, 0.47), (0.53, 0.93)):
            canvas.polygon(self._at(_inset(flank, start, stop, 0.08, 0.84)), glass, lit, None)
        a, b = (base[1], top[1]) if end > 0 else (base[0], top[0])
        screen = [(a, -0.96, s.belt), (a, 0.96, s.belt), (b, taper, s.top), (b, -taper, s.top)]
        lit = self._lit(canvas, end, across=False)
        canvas.polygon(self._at(screen), self.paint, lit, CAR)
        if not (s.panelled and end < 0):
            canvas.polygon(self._at(_inset(screen, 0.07, 0.93, 0.1, 0.86)), glass, lit + 0.2, None)

    def _face(self, canvas: Canvas, end: float) -> None:
        """Lamps, plate and bumper of the end that is seen."""
        high = self.shape.bonnet if end > 0 else self.shape.belt
        lit = self._lit(canvas, end, across=False)

        def patch(left: float, right: float, low: float, top: float, albedo: Colour) -> None:
            corners = [(end * 0.505, b, y) for b, y in ((left, low), (right, low), (right, top), (left, top))]
            canvas.polygon(self._at(corners), albedo, lit, None)

        patch(-0.96, 0.96, 0.24, 0.4, (46, 46, 48))
        lamp = (238.0, 236.0, 222.0) if end > 0 else (176.0, 26.0, 24.0)
        for mirror in (-1, 1):
            patch(
                min(mirror * 0.92, mirror * 0.6),
                max(mirror * 0.92, mirror * 0.6),
                high - 0.26,
                high - 0.1,
                lamp,
            )
        if end > 0:
            patch(-0.5, 0.5, high - 0.28, high - 0.12, (40, 42, 44))
        patch(-0.26, 0.26, 0.42, 0.54, (222, 220, 206))


def _inset(
    quad: Sequence[tuple[float, float, float]], left: float, right: float, low: float, high: float
) -> list[tuple[float, float, float]]:
    """The part of a quad (bottom from left to right, then top from right to left) between those shares."""

    def point(u: float, v: float) -> tuple[float, float, float]:
        w = ((1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v)
        x, y, z = (sum(k * corner[i] for k, corner in zip(w, quad, strict=True)) for i in range(3))
        return (x, y, z)

    return [point(left, low), point(right, low), point(right, high), point(left, high)]


def choose_car(rng: Generator, x: float, z: float, heading: float, *, large: bool = True) -> Car:
    """Draw a vehicle whose near end is at z; `large` lets it be a van or a bus."""
    shapes = _SHAPES if large else _SHAPES[:3]
    shape, _ = pick(rng, shapes, [weight for _, weight in shapes])
    paint, _ = pick(rng, _PAINTS, [weight for _, weight in _PAINTS])
    tone = rng.normal(0, 6)
    away = 0.5 * shape.length if abs(math.sin(heading)) < 0.5 else shape.half
    paint = (paint[0] + tone, paint[1] + tone, paint[2] + tone)
    return Car(x=x, z=z + away, heading=heading, shape=shape, paint=paint)
