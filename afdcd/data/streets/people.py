"""Pedestrians and cyclists, drawn from limbs that face the camera."""

from __future__ import annotations

import math
from dataclasses import dataclass

from numpy.random import Generator

from afdcd.data.streets.canvas import Canvas
from afdcd.data.streets.chance import coin, pick, sign
from afdcd.data.streets.classes import BICYCLIST, PEDESTRIAN
from afdcd.data.streets.light import Colour
from afdcd.data.streets.noise import Grain

Spot = tuple[float, float]

_TOPS: tuple[Colour, ...] = (
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
    top = pick(rng, _TOPS)
    tone = rng.normal(0, 8)
    return Looks(
        height=rng.uniform(1.2, 1.45) if rng.random() < 0.12 else rng.uniform(1.58, 1.9),
        top=(top[0] + tone, top[1] + tone, top[2] + tone),
        trousers=pick(rng, _TROUSERS),
        skin=pick(rng, _SKINS),
        hair=pick(rng, _HAIR),
    )


class _Figure:
    """Draws parts in metres about a spot on the ground, all with one class id."""

    def __init__(self, canvas: Canvas, x: float, z: float, label: int) -> None:
        self.canvas, self.x, self.z, self.label = canvas, x, z, label
        self.lit = 0.35 + 0.65 * canvas.light.cosine(0, 0.3, -0.95)
        self.sunny = 1 if canvas.light.toward[0] > 0 else -1

    def shape(self, outline: list[Spot], albedo: Colour, lit: float = 1.0) -> None:
        points = [(self.x + x, y, self.z) for x, y in outline]
        self.canvas.polygon(points, albedo, self.lit * lit, self.label)

    def limb(
        self, start: Spot, stop: Spot, widths: tuple[float, float], albedo: Colour, lit: float = 1.0
    ) -> None:
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


@dataclass(frozen=True)
class Pedestrian:
    """Somebody on foot; `turn` is -1 or 1 in a side view, 0 from front or back; `stride` in radians."""

    x: float
    z: float
    looks: Looks
    turn: int
    stride: float
    behind: bool
    garment: str
    load: str

    def shadow(self, canvas: Canvas) -> None:
        """Cast a shadow, and darken the ground at the feet."""
        corners = [(self.x + dx, self.z + dz) for dx in (-0.2, 0.2) for dz in (-0.1, 0.1)]
        canvas.cast(corners, 0.95 * self.looks.height)
        canvas.darken([corners[0], corners[1], corners[3], corners[2]], 200)

    def draw(self, canvas: Canvas, grain: Grain) -> None:
        """Paint legs, arms, body, head and what is carried."""
        figure, k = _Figure(canvas, self.x, self.z, PEDESTRIAN), self.looks.height / 1.75
        top, legs, turn = self.looks.top, self.looks.trousers, self.turn
        hip, swing = 0.9 * k, math.sin(self.stride)
        for mirror in (-1, 1):
            root = (mirror * (0.035 if turn else 0.085) * k, hip)
            spread = mirror * (0.36 * swing if turn else 0.1) * k
            knee = (root[0] + 0.5 * spread + (0.04 * turn * k), 0.48 * k)
            foot = (root[0] * 0.6 + spread, 0.07 * k if mirror * swing > 0 else 0.04 * k)
            figure.limb(root, knee, (0.19 * k, 0.14 * k), legs, 1.0 if mirror == figure.sunny else 0.75)
            figure.limb(knee, foot, (0.14 * k, 0.1 * k), legs, 1.0 if mirror == figure.sunny else 0.75)
            toe = (foot[0] + 0.14 * (turn or 0.4 * mirror) * k, 0.03 * k)
            figure.limb((foot[0], 0.05 * k), toe, (0.1 * k, 0.08 * k), (36, 32, 30))
        half = (0.13 if turn else 0.2) * k
        self._arm(figure, -1, half, swing, k)
        figure.shape(
            [(-half, 1.43 * k), (half, 1.43 * k), (half * 0.82, 0.86 * k), (-half * 0.82, 0.86 * k)], top, 0.8
        )
        bright = figure.sunny * half
        figure.shape([(0, 1.47 * k), (bright, 1.43 * k), (bright * 0.82, 0.86 * k), (0, 0.86 * k)], top, 1.25)
        if self.garment == "coat":
            figure.shape(
                [
                    (-half * 0.9, 1.0 * k),
                    (half * 0.9, 1.0 * k),
                    (half * 1.15, 0.55 * k),
                    (-half * 1.15, 0.55 * k),
                ],
                top,
            )
        elif self.garment == "skirt":
            figure.shape(
                [
                    (-half * 0.8, 0.95 * k),
                    (half * 0.8, 0.95 * k),
                    (half * 1.2, 0.52 * k),
                    (-half * 1.2, 0.52 * k),
                ],
                legs,
            )
        self._arm(figure, 1, half, swing, k)
        if self.load == "backpack" and (turn or self.behind):
            shift = -turn * 0.17 * k
            figure.shape(
                [
                    (shift - 0.13 * k, 1.4 * k),
                    (shift + 0.13 * k, 1.4 * k),
                    (shift + 0.13 * k, 1.0 * k),
                    (shift - 0.13 * k, 1.0 * k),
                ],
                (62, 66, 72),
            )
        elif self.load == "bag":
            figure.shape(
                [(half, 0.86 * k), (half + 0.2 * k, 0.86 * k), (half + 0.2 * k, 0.56 * k), (half, 0.56 * k)],
                (132, 92, 58),
            )
        figure.limb((0, 1.42 * k), (0.02 * turn, 1.56 * k), (0.12 * k, 0.1 * k), self.looks.skin)
        figure.head(
            (0.03 * turn * k, 1.63 * k), 0.125 * k, self.looks, 1.0 if self.behind and not turn else 0.0
        )

    def _arm(self, figure: _Figure, mirror: int, half: float, swing: float, k: float) -> None:
        shoulder = (mirror * half * (0.3 if self.turn else 0.95), 1.4 * k)
        reach = -mirror * 0.26 * swing * k if self.turn else mirror * 0.08 * k
        hand = (shoulder[0] + reach, 0.84 * k)
        elbow = ((shoulder[0] + hand[0]) / 2 - 0.03 * self.turn * k, 1.1 * k)
        figure.limb(shoulder, elbow, (0.13 * k, 0.11 * k), self.looks.top, 0.9)
        figure.limb(elbow, hand, (0.11 * k, 0.08 * k), self.looks.top, 0.9)
        figure.limb(hand, (hand[0], hand[1] - 0.08 * k), (0.08 * k, 0.07 * k), self.looks.skin)


@dataclass(frozen=True)
class Cyclist:
    """Somebody on a bicycle at (x, z); `turn` -1 or 1 rides across the view, 0 along the street."""

    x: float
    z: float
    looks: Looks
    turn: int
    pedal: float
    frame: Colour
    helmet: bool
    behind: bool

    def shadow(self, canvas: Canvas) -> None:
        """Cast a shadow, and darken the ground under the wheels."""
        wide, deep = (0.8, 0.12) if self.turn else (0.15, 0.8)
        corners = [(self.x + dx, self.z + dz) for dx in (-wide, wide) for dz in (-deep, deep)]
        canvas.cast(corners, 1.5)
        canvas.darken([corners[0], corners[1], corners[3], corners[2]], 170)

    def draw(self, canvas: Canvas, grain: Grain) -> None:
        """Paint the bicycle and who rides it."""
        figure = _Figure(canvas, self.x, self.z, BICYCLIST)
        if self.turn:
            self._across(canvas, figure)
        else:
            self._along(figure)

    def _across(self, canvas: Canvas, figure: _Figure) -> None:
        t, looks = self.turn, self.looks
        for wheel in (-0.54, 0.54):
            canvas.ring((self.x + wheel, 0.36, self.z), 0.36, 0.075, (34, 34, 36), figure.lit, BICYCLIST)
        crank, seat, bar, hub = (-0.06 * t, 0.34), (-0.2 * t, 0.92), (0.42 * t, 0.98), (0.54 * t, 0.36)
        for start, stop in (
            (crank, seat),
            (crank, (0.38 * t, 0.84)),
            (seat, (0.38 * t, 0.84)),
            (bar, hub),
            (crank, (-0.54 * t, 0.36)),
        ):
            figure.limb(start, stop, (0.07, 0.07), self.frame)
        hip, shoulder = (-0.17 * t, 1.02), (0.16 * t, 1.5)
        for phase in (math.pi, 0.0):
            angle = self.pedal + phase
            foot = (crank[0] + 0.17 * math.cos(angle), crank[1] + 0.17 * math.sin(angle))
            knee = (0.16 * t + 0.2 * (foot[0] - crank[0]), 0.74 + 0.5 * (foot[1] - crank[1]))
            shade = 0.75 if phase else 1.0
            figure.limb(hip, knee, (0.2, 0.15), looks.trousers, shade)
            figure.limb(knee, foot, (0.15, 0.1), looks.trousers, shade)
            figure.limb(foot, (foot[0] + 0.16 * t, foot[1] - 0.01), (0.09, 0.07), (40, 36, 34))
        figure.limb(hip, shoulder, (0.27, 0.3), looks.top)
        figure.limb(
            (hip[0], hip[1] + 0.05), (shoulder[0] - 0.06 * t, shoulder[1]), (0.1, 0.12), looks.top, 1.3
        )
        elbow = (0.33 * t, 1.2)
        figure.limb((shoulder[0], shoulder[1] - 0.06), elbow, (0.13, 0.11), looks.top, 0.9)
        figure.limb(elbow, bar, (0.11, 0.08), looks.skin)
        self._head(figure, (0.26 * t, 1.68), 0.0)

    def _along(self, figure: _Figure) -> None:
        looks, swing = self.looks, 0.16 * math.sin(self.pedal)
        figure.shape(
            [(-0.045, 0.66), (0.045, 0.66), (0.055, 0.34), (0.04, 0.0), (-0.04, 0.0), (-0.055, 0.34)],
            (34, 34, 36),
        )
        figure.limb((0, 0.62), (0, 1.0), (0.09, 0.09), self.frame)
        for mirror in (-1, 1):
            foot = (mirror * 0.13, 0.32 + mirror * swing)
            knee = (mirror * 0.17, 0.72 + 0.5 * mirror * swing)
            figure.limb(
                (mirror * 0.09, 1.0),
                knee,
                (0.19, 0.15),
                looks.trousers,
                1.0 if mirror == figure.sunny else 0.75,
            )
            figure.limb(knee, foot, (0.15, 0.1), looks.trousers, 1.0 if mirror == figure.sunny else 0.75)
            figure.limb(foot, (foot[0], foot[1] - 0.08), (0.12, 0.1), (40, 36, 34))
            figure.limb((mirror * 0.2, 1.48), (mirror * 0.29, 1.22), (0.12, 0.1), looks.top, 0.9)
            figure.limb((mirror * 0.29, 1.22), (mirror * 0.25, 1.04), (0.1, 0.08), looks.skin)
        figure.limb((-0.3, 1.02), (0.3, 1.02), (0.06, 0.06), (40, 40, 42))
        figure.shape([(-0.22, 1.5), (0.22, 1.5), (0.18, 0.96), (-0.18, 0.96)], looks.top, 0.85)
        bright = figure.sunny
        figure.shape([(0, 1.53), (bright * 0.22, 1.5), (bright * 0.18, 0.96), (0, 0.96)], looks.top, 1.25)
        self._head(figure, (0.0, 1.68), 1.0 if self.behind else 0.0)

    def _head(self, figure: _Figure, at: Spot, hair: float) -> None:
        figure.head(at, 0.125, self.looks, hair)
        if self.helmet:
            x, y = at
            figure.shape(
                [
                    (x - 0.13, y + 0.02),
                    (x - 0.1, y + 0.12),
                    (x, y + 0.16),
                    (x + 0.1, y + 0.12),
                    (x + 0.13, y + 0.02),
                ],
                self.frame,
                1.2,
            )


def choose_pedestrian(rng: Generator, x: float, z: float, *, across: bool) -> Pedestrian:
    """Draw somebody on foot; `across` walks sideways over the street."""
    sideways = across or rng.random() < 0.35
    return Pedestrian(
        x=x,
        z=z,
        looks=choose_looks(rng),
        turn=sign(rng) if sideways else 0,
        stride=rng.uniform(-0.75, 0.75),
        behind=coin(rng),
        garment=pick(rng, ("jacket", "coat", "skirt"), (0.6, 0.22, 0.18)),
        load=pick(rng, ("nothing", "backpack", "bag"), (0.5, 0.25, 0.25)),
    )


def choose_cyclist(rng: Generator, x: float, z: float, *, across: bool) -> Cyclist:
    """Draw somebody on a bicycle."""
    frame = pick(rng, _TOPS[2:])
    return Cyclist(
        x=x,
        z=z,
        looks=choose_looks(rng),
        turn=sign(rng) if across else 0,
        pedal=rng.uniform(0, 2 * math.pi),
        frame=frame,
        helmet=coin(rng),
        behind=coin(rng, 0.6),
    )
