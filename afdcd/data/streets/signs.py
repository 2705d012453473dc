"""Traffic signs and traffic lights."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator

from afdcd.data.streets.canvas import Canvas
from afdcd.data.streets.chance import pick
from afdcd.data.streets.classes import POLE, SIGN
from afdcd.data.streets.light import Colour
from afdcd.data.streets.noise import Grain

_RED, _WHITE, _BLUE, _GREEN, _YELLOW, _BLACK = (
    (190.0, 36.0, 38.0),
    (236.0, 236.0, 232.0),
    (36.0, 76.0, 156.0),
    (36.0, 104.0, 76.0),
    (226.0, 178.0, 44.0),
    (38.0, 38.0, 40.0),
)


@dataclass(frozen=True)
class Sign:
    """A traffic sign on its post; `size` is half its width in metres."""

    x: float
    z: float
    height: float
    size: float
    kind: str

    def shadow(self, canvas: Canvas) -> None:
        """Cast the shadow of post and plate."""
        canvas.cast([(self.x - 0.05, self.z), (self.x + 0.05, self.z)], self.height)
        canvas.cast(
            [(self.x - self.size, self.z), (self.x + self.size, self.z)],
            self.height,
            self.height - 2 * self.size,
        )

    def draw(self, canvas: Canvas, grain: Grain) -> None:
        """Paint post and plate."""
        x, z, a, y = self.x, self.z, self.size, self.height - self.size
        lit = 0.2 + 0.8 * canvas.light.cosine(0, 0, -1)
        post = [
            (x - 0.055, 0.0, z),
            (x + 0.055, 0.0, z),
            (x + 0.055, self.height, z),
            (x - 0.055, self.height, z),
        ]
        canvas.polygon(post, (140, 142, 142), lit, POLE)

        def box(w: float, low: float, high: float, albedo: Colour, label: int | None) -> None:
            canvas.polygon(
                [(x - w, low, z), (x + w, low, z), (x + w, high, z), (x - w, high, z)], albedo, lit, label
            )

        def triangle(r: float, up: float, albedo: Colour, label: int | None) -> None:
            points = [(x - r, y - 0.75 * r * up, z), (x + r, y - 0.75 * r * up, z), (x, y + r * up, z)]
            canvas.polygon(points, albedo, lit, label)

        if self.kind == "limit":
            canvas.disc((x, y, z), (a, a), _RED, lit, SIGN)
            canvas.disc((x, y, z), (0.68 * a, 0.68 * a), _WHITE, lit, None)
            box(0.3 * a, y - 0.3 * a, y + 0.3 * a, _BLACK, None)
        elif self.kind == "no_entry":
            canvas.disc((x, y, z), (a, a), _RED, lit, SIGN)
            box(0.65 * a, y - 0.17 * a, y + 0.17 * a, _WHITE, None)
        elif self.kind == "order":
            canvas.disc((x, y, z), (a, a), _BLUE, lit, SIGN)
            box(0.14 * a, y - 0.55 * a, y + 0.5 * a, _WHITE, None)
        elif self.kind in ("warning", "yield"):
            up = 1.0 if self.kind == "warning" else -1.0
            triangle(1.15 * a, up, _RED, SIGN)
            triangle(0.72 * a, up, _WHITE, None)
        elif self.kind == "guide":
            box(1.9 * a, y - 0.8 * a, y + 0.8 * a, _GREEN, SIGN)
            box(1.5 * a, y + 0.15 * a, y + 0.4 * a, _WHITE, None)
            box(1.2 * a, y - 0.4 * a, y - 0.15 * a, _WHITE, None)
        elif self.kind == "priority":
            canvas.polygon([(x - a, y, z), (x, y + a, z), (x + a, y, z), (x, y - a, z)], _WHITE, lit, SIGN)
            b = 0.68 * a
            canvas.polygon([(x - b, y, z), (x, y + b, z), (x + b, y, z), (x, y - b, z)], _YELLOW, lit, None)
        else:
            box(a, y - a, y + a, _BLUE, SIGN)
            box(0.35 * a, y - 0.6 * a, y + 0.6 * a, _WHITE, None)


_SIGN_KINDS = ("limit", "no_entry", "order", "warning", "yield", "guide", "priority", "parking")


def choose_sign(rng: Generator, x: float, z: float) -> Sign:
    """Draw a traffic sign."""
    return Sign(x, z, rng.uniform(2.5, 3.4), rng.uniform(0.33, 0.48), pick(rng, _SIGN_KINDS))


@dataclass(frozen=True)
class TrafficLight:
    """A traffic light on its post; the housing counts as a sign."""

    x: float
    z: float
    lit: int

    def shadow(self, canvas: Canvas) -> None:
        """Cast its shadow."""
        canvas.cast([(self.x - 0.1, self.z), (self.x + 0.1, self.z)], 3.6)

    def draw(self, canvas: Canvas, grain: Grain) -> None:
        """Paint post, housing and three lamps of which one shines."""
        x, z = self.x, self.z
        facing = canvas.light.cosine(0, 0, -1)
        canvas.polygon(
            [(x - 0.08, 0.0, z), (x + 0.08, 0.0, z), (x + 0.08, 2.8, z), (x - 0.08, 2.8, z)],
            (104, 108, 110),
            facing,
            POLE,
        )
        housing = [(x - 0.27, 2.6, z), (x + 0.27, 2.6, z), (x + 0.27, 3.75, z), (x - 0.27, 3.75, z)]
        canvas.polygon(housing, (46, 50, 48), facing, SIGN)
        for place, albedo in enumerate(((238.0, 52.0, 40.0), (240.0, 180.0, 44.0), (60.0, 214.0, 120.0))):
            glow = 1.0 if place == self.lit else 0.25
            lamp = (albedo[0] * glow, albedo[1] * glow, albedo[2] * glow)
            canvas.disc((x, 3.53 - 0.35 * place, z), (0.14, 0.14), lamp, 0.8, None)
