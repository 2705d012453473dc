"""Lamp posts, poles, bollards and fences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from afdcd.data.streets.canvas import Canvas
from afdcd.data.streets.chance import pick
from afdcd.data.streets.classes import FENCE, POLE
from afdcd.data.streets.facades import plain
from afdcd.data.streets.light import Colour
from afdcd.data.streets.noise import Grain, Offset, choose_offset, rgb

_METALS: tuple[Colour, ...] = ((128, 132, 134), (92, 96, 98), (160, 162, 160), (62, 70, 68), (178, 176, 168))
_WOODS: tuple[Colour, ...] = ((132, 104, 76), (108, 86, 66), (156, 130, 96), (92, 82, 72))


@dataclass(frozen=True)
class Pole:
    """A post, `half` its thickness in metres; `arm` reaches sideways from its top, 0 for none."""

    x: float
    z: float
    height: float
    half: float
    arm: float
    albedo: Colour

    def shadow(self, canvas: Canvas) -> None:
        """Cast its shadow."""
        canvas.cast([(self.x - self.half, self.z), (self.x + self.half, self.z)], self.height)

    def draw(self, canvas: Canvas, grain: Grain) -> None:
        """Paint a dark and a light half, the arm, and a lamp at its end."""
        light, x, z, top = canvas.light, self.x, self.z, self.height
        lit = light.cosine(0, 0, -1)
        thin = 0.7 * self.half if self.arm else self.half
        body = [(x - self.half, 0.0, z), (x + self.half, 0.0, z), (x + thin, top, z), (x - thin, top, z)]
        canvas.polygon(body, self.albedo, 0.6 * lit, POLE)
        side = self.half if light.toward[0] > 0 else -self.half
        bright = [(x, 0.0, z), (x + side, 0.0, z), (x + 0.8 * side, top, z), (x, top, z)]
        canvas.polygon(bright, self.albedo, 0.3 + lit, None)
        if self.arm:
            end = x + self.arm
            beam = [(x, top - 0.16, z), (x, top, z), (end, top + 0.3, z), (end, top + 0.14, z)]
            canvas.polygon(beam, self.albedo, lit, POLE)
            tip = end + (0.6 if self.arm > 0 else -0.6)
            lamp = [(end, top + 0.1, z), (end, top + 0.36, z), (tip, top + 0.32, z), (tip, top + 0.12, z)]
            canvas.polygon(lamp, (206, 206, 196), lit, POLE)


def choose_pole(rng: Generator, x: float, z: float, inward: int) -> Pole:
    """Draw a lamp post, a plain pole or a bollard; arms reach `inward` (-1 or 1) over the road."""
    kind = pick(rng, ("lamp", "mast", "bollard"), (0.6, 0.3, 0.1))
    palette = _METALS if kind != "mast" or rng.random() < 0.5 else _WOODS
    albedo = pick(rng, palette)
    if kind == "bollard":
        return Pole(x, z, rng.uniform(0.9, 1.15), rng.uniform(0.09, 0.13), 0.0, albedo)
    half = rng.uniform(0.085, 0.14)
    return Pole(
        x, z, rng.uniform(5, 8.5), half, inward * rng.uniform(0.9, 2.0) if kind == "lamp" else 0.0, albedo
    )


@dataclass(frozen=True)
class Fence:
    """A fence along the street on the plane `x`; what shows through its gaps still counts as fence."""

    x: float
    span: tuple[float, float]
    height: float
    kind: str
    albedo: Colour
    offset: Offset

    @property
    def z(self) -> float:
        """Distance of its near end."""
        return self.span[0]

    def shadow(self, canvas: Canvas) -> None:
        """Cast its shadow."""
        canvas.cast([(self.x, self.span[0]), (self.x, self.span[1])], self.height)

    def draw(self, canvas: Canvas, grain: Grain) -> None:
        """Paint boards, pickets or bars, eight columns of texture to the metre."""
        light, side = canvas.light, 1 if self.x > 0 else -1
        columns = max(4, int(8 * (self.span[1] - self.span[0])))
        picture = plain(light.soil(self.albedo), 16, columns, 0.05, grain, self.offset)
        place = np.arange(columns)
        if self.kind == "boards":
            picture[:, place % 3 == 0] *= np.float32(0.7)
        else:
            gap = place % 2 == 1 if self.kind == "bars" else place % 3 == 2
            picture[3:13, gap] *= np.float32(0.34)
            picture[:3, gap] *= np.float32(0.62)
        picture[:1] *= np.float32(1.15)
        posts = place % 16 == 0
        picture[:, posts] *= np.float32(0.82)
        picture *= rgb(light.factor(0.12 + light.cosine(-side, 0, 0)))
        canvas.wall(self.x, self.span, (0.0, self.height), picture, FENCE)


def choose_fence(rng: Generator, x: float, span: tuple[float, float]) -> Fence:
    """Draw a fence on the plane `x`."""
    kind = pick(rng, ("boards", "pickets", "bars"), (0.35, 0.3, 0.35))
    painted = kind == "pickets" and rng.random() < 0.6
    palette = ((226.0, 224.0, 216.0),) if painted else (_METALS if kind == "bars" else _WOODS)
    height = rng.uniform(1.4, 2.0) if kind == "boards" else rng.uniform(0.95, 1.5)
    return Fence(x, span, height, kind, pick(rng, palette), choose_offset(rng))
