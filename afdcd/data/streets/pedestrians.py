"""People on foot."""

from __future__ import annotations

import math
from dataclasses import dataclass

from numpy.random import Generator

from afdcd.data.streets.canvas import Canvas
from afdcd.data.streets.chance import coin, pick, sign
from afdcd.data.streets.classes import PEDESTRIAN
from afdcd.data.streets.noise import Grain
from afdcd.data.streets.people import Figure, Looks, choose_looks


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
        figure, k = Figure(canvas, self.x, self.z, PEDESTRIAN), self.looks.height / 1.75
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

    def _arm(self, figure: Figure, mirror: int, half: float, swing: float, k: float) -> None:
        shoulder = (mirror * half * (0.3 if self.turn else 0.95), 1.4 * k)
        reach = -mirror * 0.26 * swing * k if self.turn else mirror * 0.08 * k
        hand = (shoulder[0] + reach, 0.84 * k)
        elbow = ((shoulder[0] + hand[0]) / 2 - 0.03 * self.turn * k, 1.1 * k)
        figure.limb(shoulder, elbow, (0.13 * k, 0.11 * k), self.looks.top, 0.9)
        figure.limb(elbow, hand, (0.11 * k, 0.08 * k), self.looks.top, 0.9)
        figure.limb(hand, (hand[0], hand[1] - 0.08 * k), (0.08 * k, 0.07 * k), self.looks.skin)


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
