"""How people look, and the limbs they are drawn from."""

from __future__ import annotations

import math
from dataclasses import dataclass

from numpy.random import Generator

from afdcd.data.streets.canvas import Canvas
from afdcd.data.streets.chance import pick
from afdcd.data.streets.light import Colour

Spot = tuple[float, float]

CLOTHES: tuple[Colour, ...] = (
    (42, 46, 58),
    (60, 60, 62),
    (120, 40, 42),
    (176, 62, 50),
    (46, 78, 128),
    (92, 128, 164),
    (206, 202, 192),
    (72, 92, 66),
    (196, 154, 64),
    (128, 104, 84),
    (104, 62, 92),
    (226, 224, 220),
)
_TROUSERS: tuple[Colour, ...] = (
    (40, 44, 58),
    (58, 70, 96),
    (48, 46, 46),
    (92, 84, 74),
    (138, 124, 98),
    (74, 74, 78),
)
_SKINS: tuple[Colour, ...] = ((226, 184, 156), (204, 156, 122), (164, 114, 84), (112, 76, 56))
_HAIR: tuple[Colour, ...] = ((44, 34, 28), (84, 58, 36), (168, 132, 76), (120, 116, 112), (26, 24, 26))


@dataclass(frozen=True)
class Looks:
    """Height in metres and the colours of a person."""

    height: float
    top: Colour
    trousers: Colour
    skin: Colour
    hair: Colour


def choose_looks(rng: Generator) -> Looks:
    """Draw a person."""
    top = pick(rng, CLOTHES)
    tone = rng.normal(0, 8)
    return Looks(
        height=rng.uniform(1.2, 1.45) if rng.random() < 0.12 else rng.uniform(1.58, 1.9),
        top=(top[0] + tone, top[1] + tone, top[2] + tone),
        trousers=pick(rng, _TROUSERS),
        skin=pick(rng, _SKINS),
        hair=pick(rng, _HAIR),
    )


class Figure:
    """Draws parts in metres about a spot on the ground, all with one class id."""

    def __init__(self, canvas: Canvas, x: float, z: float, label: int) -> None:
        self.canvas, self.x, self.z, self.label = canvas, x, z, label
        self.lit = 0.35 + 0.65 * canvas.light.cosine(0, 0.3, -0.95)
        self.sunny = 1 if canvas.light.toward[0] > 0 else -1

    def shape(self, outline: list[Spot], albedo: Colour, lit: float = 1.0) -> None:
        """Paint a polygon; `lit` brightens or darkens it."""
        points = [(self.x + x, y, self.z) for x, y in outline]
        self.canvas.polygon(points, albedo, self.lit * lit, self.label)

    def limb(
        self, start: Spot, stop: Spot, widths: tuple[float, float], albedo: Colour, lit: float = 1.0
    ) -> None:
        """Paint a limb that is `widths` thick at its two ends."""
        dx, dy = stop[0] - start[0], stop[1] - start[1]
        length = math.hypot(dx, dy) or 1.0
        nx, ny = -dy / length / 2, dx / length / 2
        self.shape(
            [
                (start[0] + nx * widths[0], start[1] + ny * widths[0]),
                (stop[0] + nx * widths[1], stop[1] + ny * widths[1]),
                (stop[0] - nx * widths[1], stop[1] - ny * widths[1]),
                (start[0] - nx * widths[0], start[1] - ny * widths[0]),
            ],
            albedo,
            lit,
        )

    def head(self, at: Spot, radius: float, looks: Looks, hair: float) -> None:
        """A head with hair; `hair` from 0 (a face) to 1 (seen from behind)."""
        centre = (self.x + at[0], at[1], self.z)
        self.canvas.disc(centre, (radius * 0.86, radius), looks.hair, self.lit, self.label)
        low = (self.x + at[0], at[1] - 0.25 * radius * (1 + hair), self.z)
        size = radius * (0.74 - 0.3 * hair)
        self.canvas.disc(low, (size, size), looks.skin, self.lit, self.label)
