"""People on bicycles."""

from __future__ import annotations

import math
from dataclasses import dataclass

from numpy.random import Generator

from afdcd.data.streets.canvas import Canvas
from afdcd.data.streets.chance import coin, pick, sign
from afdcd.data.streets.classes import BICYCLIST
from afdcd.data.streets.light import Colour
from afdcd.data.streets.noise import Grain
from afdcd.data.streets.people import CLOTHES, Figure, Looks, Spot, choose_looks


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
        figure = Figure(canvas, self.x, self.z, BICYCLIST)
        if self.turn:
            self._across(canvas, figure)
        else:
            self._along(figure)

    def _across(self, canvas: Canvas, figure: Figure) -> None:
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

    def _along(self, figure: Figure) -> None:
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

    def _head(self, figure: Figure, at: Spot, hair: float) -> None:
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


def choose_cyclist(rng: Generator, x: float, z: float, *, across: bool) -> Cyclist:
    """Draw somebody on a bicycle."""
    frame = pick(rng, CLOTHES[2:])
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
